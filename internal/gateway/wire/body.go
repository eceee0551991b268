package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// MaxDepth is how deep a body may nest. Readers behind the gateway recurse.
const MaxDepth = 100

// Parse makes an Object of a request's body, which it may change. Escaped surrogates that have no partner, as a string
// cut in the wrong place leaves them, become U+FFFD. The error is a *cluster.Error.
func Parse(body []byte) (*Object, error) {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return nil, cluster.Errorf(cluster.CodeInvalid, "the body is empty")
	case !utf8.Valid(body):
		return nil, cluster.Errorf(cluster.CodeInvalid, "the body is not valid UTF-8")
	case !json.Valid(body):
		return nil, syntaxError(body)
	case depth(body) > MaxDepth:
		return nil, cluster.Errorf(cluster.CodeInvalid, "the body nests deeper than %d levels", MaxDepth)
	}
	mendSurrogates(body)
	o := newObject("", body)
	return o, o.Err()
}

func syntaxError(body []byte) error {
	var nothing struct{}
	err := json.Unmarshal(body, &nothing)
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return cluster.Errorf(cluster.CodeInvalid, "the body is not valid JSON")
	}
	return cluster.Errorf(cluster.CodeInvalid, "the body is not valid JSON: %s, at byte %d", syntax.Error(), syntax.Offset)
}

// depth measures valid JSON.
func depth(raw []byte) int {
	now, most := 0, 0
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			i = stringEnd(raw, i) - 1
		case '{', '[':
			now++
			most = max(most, now)
		case '}', ']':
			now--
		}
	}
	return most
}

// mendSurrogates works on valid JSON, where a backslash stands only inside of strings.
func mendSurrogates(raw []byte) {
	for i := 0; i < len(raw); {
		next := bytes.IndexByte(raw[i:], '\\')
		if next < 0 {
			return
		}
		i += next
		unit, ok := escapedUnit(raw[i:])
		switch {
		case !ok:
			i += 2
		case unit < 0xd800 || unit > 0xdfff:
			i += 6
		case unit < 0xdc00 && isLowSurrogate(raw[i+6:]):
			i += 12
		default:
			copy(raw[i:], `\ufffd`)
			i += 6
		}
	}
}

func isLowSurrogate(raw []byte) bool {
	unit, ok := escapedUnit(raw)
	return ok && unit >= 0xdc00 && unit <= 0xdfff
}

// escapedUnit reads the UTF-16 unit of a \u escape at the beginning of raw.
func escapedUnit(raw []byte) (uint64, bool) {
	if len(raw) < 6 || raw[0] != '\\' || raw[1] != 'u' {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(raw[2:6]), 16, 16)
	return unit, err == nil
}

// stringEnd returns the index after the string that begins at start.
func stringEnd(raw []byte, start int) int {
	for i := start + 1; i < len(raw); i++ {
		switch raw[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(raw)
}

// valueEnd returns the index after the value that begins at start.
func valueEnd(raw []byte, start int) int {
	level := 0
	for i := start; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			i = stringEnd(raw, i) - 1
			if level == 0 {
				return i + 1
			}
		case '{', '[':
			level++
		case '}', ']':
			level--
			if level == 0 {
				return i + 1
			}
			if level < 0 {
				return i
			}
		case ',', ' ', '\t', '\r', '\n':
			if level == 0 {
				return i
			}
		}
	}
	return len(raw)
}

func skipSpace(raw []byte, i int) int {
	for i < len(raw) && (raw[i] == ' ' || raw[i] == '\t' || raw[i] == '\r' || raw[i] == '\n') {
		i++
	}
	return i
}

// next skips space and one comma or colon.
func next(raw []byte, i int) int {
	i = skipSpace(raw, i)
	if i < len(raw) && (raw[i] == ',' || raw[i] == ':') {
		i = skipSpace(raw, i+1)
	}
	return i
}

// members walks over a valid JSON object until yield returns an error.
func members(raw []byte, yield func(key string, value json.RawMessage) error) error {
	for i := skipSpace(raw, skipSpace(raw, 0)+1); i < len(raw) && raw[i] == '"'; {
		end := stringEnd(raw, i)
		key, err := text(raw[i:end])
		if err != nil {
			return err
		}
		start := next(raw, end)
		end = valueEnd(raw, start)
		if err := yield(key, raw[start:end:end]); err != nil {
			return err
		}
		i = next(raw, end)
	}
	return nil
}

// elements splits a valid JSON array.
func elements(raw []byte) []json.RawMessage {
	var list []json.RawMessage
	for i := skipSpace(raw, skipSpace(raw, 0)+1); i < len(raw) && raw[i] != ']'; {
		end := valueEnd(raw, i)
		list = append(list, raw[i:end:end])
		i = next(raw, end)
	}
	return list
}

// text decodes a JSON string.
func text(raw []byte) (string, error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fmt.Errorf("decode a string: %w", err)
	}
	return s, nil
}
