// SPDX-License-Identifier: Apache-2.0

// Package tokenizer turns text into token ids and back for byte-level BPE
// models in the Hugging Face layout (tokenizer.json, tokenizer_config.json),
// among them DeepSeek-V2/V3 and Qwen3-MoE. Ids equal those of the Rust
// tokenizers library, which the test vectors come from.
//
// Guarantees: a loaded Tokenizer is immutable and safe for concurrent use;
// malformed files give errors that name the offending part and never a panic;
// every size in a file is bounded; for valid UTF-8 and a tokenizer without a
// normalizer, Decode(Encode(text)) is text.
//
// Why own code: the pure-Go libraries were looked at first.
// github.com/sugarme/tokenizer v0.3.0 compiles the pre-tokenizer's patterns
// with the standard library's RE2 engine, whose MustCompile panics on the
// lookahead `(?!\S)` that DeepSeek and Qwen both use, and cuts its merges from
// Go structures that predate the pair form of "merges" in current files.
// github.com/gomlx/go-huggingface reads SentencePiece only, tiktoken ports know
// a fixed list of vocabularies, and the rest bind the Rust library through
// cgo, which the model server is built without. So the merge loop is ours, and
// the patterns run on github.com/dlclark/regexp2, a backtracking engine with
// lookaround and a time limit.
package tokenizer
