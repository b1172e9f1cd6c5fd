// SPDX-License-Identifier: Apache-2.0

// Package chattemplate turns the messages of a chat into a model's prompt with
// the Jinja template of its tokenizer_config.json.
//
// It understands what chat templates use of Jinja, with the settings that
// transformers gives it (trim_blocks, lstrip_blocks, loop controls, an
// immutable sandbox; https://huggingface.co/docs/transformers/chat_templating):
// output, if, for, set, macro, filter, raw, break and continue, generation;
// namespace, range, dict, raise_exception and strftime_now; the usual filters,
// tests and methods of strings and mappings. Anything else is an error that
// names it and its line when the template is parsed, never a different prompt.
// Results equal those of Jinja2, which the test vectors come from; but a tuple is a list, also when printed.
//
// A template comes with a checkpoint, so it is input like any other: its size
// and nesting, and of each rendering the operations, the depth of calls, the
// bytes made on the way and the output are bounded, and it reaches no file, no
// network and no clock but the one passed in.
//
// Why own code: of the pure-Go libraries, github.com/ardanlabs/jinja v1.8.0
// and github.com/nikolalohinski/gonja/v2 v2.9.1 were tried. Neither can be
// bounded from outside: with both, a macro that calls itself overflows the
// stack and a string doubled in a loop takes all memory, and Go recovers from
// neither. gonja also reads files that a template includes. What chat
// templates need is small enough to interpret with a budget.
package chattemplate
