// SPDX-License-Identifier: Apache-2.0

// Package openai serves the OpenAI-compatible HTTP API on top of a
// serving.Loop: /v1/models, /v1/completions and /v1/chat/completions, with
// health, readiness and metrics beside them. docs/api-http.md documents it.
//
// Fields that clients send and that change nothing are ignored; fields that
// would change the completion but are not supported are refused by name,
// because a completion that silently ignores them is a wrong answer. Errors
// have the shape of the OpenAI API.
//
// Extensions, named as other servers name them: top_k, ignore_eos,
// stop_token_ids and, of chats, chat_template_kwargs and reasoning_content.
//
// A streamed completion is cut from the same text as one that is not streamed:
// both come from choice, which holds back incomplete UTF-8 and anything that
// may turn out to be a stop string.
package openai
