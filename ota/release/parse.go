package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// decode reads data into v, which must be a pointer to a struct, once it has been scanned. The values of the free keys (of the
// outermost object) belong to somebody else: there only bounds and repeated keys are looked at.
func decode(data []byte, what string, v any, free ...string) error {
	if err := scan(data, what, free); err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return &Error{"rel.malformed", fmt.Sprintf("%s: %s: %s: want a JSON value for %s", what, wrong.Field, wrong.Value, wrong.Type)}
		}
		return &Error{"rel.malformed", fmt.Sprintf("%s: %v", what, err)}
	}
	return nil
}

// decodeSchema is decode for files that say their schema. That is looked at first: a file of another schema need not fit
// anything else.
func decodeSchema(data []byte, what string, v any, free ...string) error {
	if err := scan(data, what, free); err != nil {
		return err
	}
	var head struct {
		Schema json.RawMessage `json:"schema"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return &Error{"rel.malformed", fmt.Sprintf("%s: %v", what, err)}
	}
	if string(head.Schema) != "1" {
		var bad any
		if head.Schema != nil {
			bad = string(head.Schema)
		}
		return fault("rel.schema", what+": schema", bad, "1, the only one that this program knows; take a newer program, or a stepping stone to it")
	}
	return decode(data, what, v, free...)
}

// scan looks at all of the JSON before any of it is used: encoding/json takes the last of two equal keys, takes "SHA256" for
// sha256, null for nothing, and bytes that are no UTF-8 for U+FFFD. Another reader of the same signed bytes need not agree.
func scan(data []byte, what string, free []string) error {
	if len(data) > MaxFile {
		return fault("rel.size", what, fmt.Sprintf("%d bytes", len(data)), fmt.Sprintf("at most %d bytes", MaxFile))
	}
	if !utf8.Valid(data) {
		return &Error{"rel.malformed", what + ": bytes that are no UTF-8: want JSON in UTF-8"}
	}
	if !json.Valid(data) {
		var any any
		return &Error{"rel.malformed", fmt.Sprintf("%s: %v: want one JSON object", what, json.Unmarshal(data, &any))}
	}
	if b := bytes.TrimLeft(data, " \t\r\n"); b[0] != '{' {
		return malformed(what, string(b[:1]), "one JSON object")
	}
	type level struct {
		keys map[string]bool // nil: an array
		key  string          // the present one; "" before a key
	}
	var stack []level
	isFree := func() bool {
		if len(stack) == 0 {
			return false
		}
		for _, f := range free {
			if stack[0].key == f {
				return true
			}
		}
		return false
	}
	where := func() string {
		at := what
		for _, l := range stack {
			if l.key != "" {
				at += ": " + l.key
			}
		}
		return at
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	for {
		tok, err := dec.Token()
		if err != nil { // io.EOF: it was found valid above
			return nil
		}
		var top *level
		if len(stack) > 0 {
			top = &stack[len(stack)-1]
		}
		if d, ok := tok.(json.Delim); ok && (d == '}' || d == ']') {
			if stack = stack[:len(stack)-1]; len(stack) > 0 {
				if top = &stack[len(stack)-1]; top.keys != nil {
					top.key = ""
				}
			}
			continue
		}
		if top != nil && top.keys != nil && top.key == "" { // a key is due
			key := tok.(string)
			if top.keys[key] {
				return malformed(where(), key, "each key once in an object")
			}
			top.keys[key] = true
			inside := isFree() && len(stack) > 1
			if !inside && !lowerWord(key, "_") {
				return malformed(where()+": key", key, "keys of 1 to 64 of a-z 0-9 _")
			}
			if top.key = key; key == "" {
				return malformed(where()+": key", key, "a key that is not empty")
			}
			continue
		}
		if tok == nil && !isFree() {
			return malformed(where(), "null", "a value, or leave the key out")
		}
		switch d, _ := tok.(json.Delim); d {
		case '{', '[':
			if len(stack) == maxDepth {
				return malformed(what, fmt.Sprintf("nested deeper than %d", maxDepth), "at most that")
			}
			l := level{}
			if d == '{' {
				l.keys = map[string]bool{}
			}
			stack = append(stack, l)
		default:
			if top != nil && top.keys != nil {
				top.key = ""
			}
		}
	}
}

// encode is what a parser reads back: it is parsed before it is returned.
func encode[T any](v *T, parse func([]byte) (*T, error)) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("release: %w", err)
	}
	data := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if _, err := parse(data); err != nil {
		return nil, err
	}
	return data, nil
}

// within checks a number's bounds.
func within[N int | int64 | uint64 | float64](what string, n, low, high N) error {
	if n >= low && n <= high {
		return nil
	}
	return malformed(what, n, fmt.Sprintf("%v to %v", low, high))
}

// counted checks a count's upper bound.
func counted(what string, n, high int) error {
	if n <= high {
		return nil
	}
	return malformed(what, fmt.Sprintf("%d of them", n), fmt.Sprintf("at most %d", high))
}

// first is the first error that is one.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// named checks a word by its rule.
func named(what, s string, rule func(string) bool, want string) error {
	switch {
	case rule(s):
		return nil
	case s == "":
		return malformed(what, nil, want)
	}
	return malformed(what, s, want)
}

// oneOf checks a word against the known ones.
func oneOf(what, s string, known ...string) error {
	for _, k := range known {
		if s == k {
			return nil
		}
	}
	return malformed(what, s, "one of "+strings.Join(known, " "))
}
