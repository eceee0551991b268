package wire

import (
	"encoding/json"
	"math"
	"strconv"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Object is one JSON object, read field by field. A field that is null reads as one that is absent. The first thing
// that is wrong is kept and reads as absent too: check Err once, after reading. Not safe for concurrent use.
type Object struct {
	path   string
	fields map[string]json.RawMessage
	err    error
}

func newObject(path string, raw json.RawMessage) *Object {
	o := &Object{path: path}
	if got := kind(raw); got != "an object" {
		subject := path
		if subject == "" {
			subject = "the body"
		}
		o.err = &cluster.Error{Code: cluster.CodeInvalid, Field: path, Message: subject + " must be an object, not " + got}
		return o
	}
	o.fields = make(map[string]json.RawMessage)
	o.err = members(raw, func(key string, value json.RawMessage) error {
		if _, twice := o.fields[key]; twice {
			return cluster.Invalid(o.Path(key), "is there twice")
		}
		o.fields[key] = value
		return nil
	})
	return o
}

// Path names a field from the top of the body: messages[2].content.
func (o *Object) Path(name string) string {
	if o.path == "" {
		return name
	}
	return o.path + "." + name
}

// Err returns the first error, a *cluster.Error with CodeInvalid that names the field.
func (o *Object) Err() error { return o.err }

// Fail notes what is wrong with a field, unless something was wrong before.
func (o *Object) Fail(name, claim string) { o.FailWith(cluster.Invalid(o.Path(name), claim)) }

// FailWith notes an error, which may be nil, unless something was wrong before.
func (o *Object) FailWith(err error) {
	if o.err == nil {
		o.err = err
	}
}

// Has says whether a field is there and not null.
func (o *Object) Has(name string) bool { return o.Raw(name) != nil }

// Raw returns a field as it is, in the memory of the body.
func (o *Object) Raw(name string) json.RawMessage {
	raw := o.fields[name]
	if len(raw) == 0 || raw[0] == 'n' {
		return nil
	}
	return raw
}

// typed returns a field of one kind.
func (o *Object) typed(name, want string) json.RawMessage {
	raw := o.Raw(name)
	if raw == nil {
		return nil
	}
	if got := kind(raw); got != want {
		o.Fail(name, "must be "+want+", not "+got)
		return nil
	}
	return raw
}

// String reads a text; empty where it is absent.
func (o *Object) String(name string) string {
	raw := o.typed(name, "a string")
	if raw == nil {
		return ""
	}
	s, err := text(raw)
	if err != nil {
		o.Fail(name, "is not a valid string")
	}
	return s
}

// Bool reads a flag; false where it is absent.
func (o *Object) Bool(name string) bool {
	raw := o.typed(name, "true or false")
	return raw != nil && raw[0] == 't'
}

// Float reads a number.
func (o *Object) Float(name string) *float64 {
	raw := o.typed(name, "a number")
	if raw == nil {
		return nil
	}
	f, ok := number(raw)
	if !ok {
		o.Fail(name, "is too large a number")
		return nil
	}
	return &f
}

// Int reads a whole number, which may be written as 3.0 or 3e0.
func (o *Object) Int(name string) *int64 {
	raw := o.typed(name, "a number")
	if raw == nil {
		return nil
	}
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return &n
	}
	const exact = 1 << 53
	f, ok := number(raw)
	switch {
	case ok && f != math.Trunc(f):
		o.Fail(name, "must be a whole number, not "+short(raw))
	case !ok || math.Abs(f) > exact:
		o.Fail(name, "is too large a number")
	default:
		n := int64(f)
		return &n
	}
	return nil
}

// Size reads a whole number in the range of int.
func (o *Object) Size(name string) *int {
	n := o.Int(name)
	if n == nil {
		return nil
	}
	if *n > math.MaxInt || *n < math.MinInt {
		o.Fail(name, "is too large a number")
		return nil
	}
	size := int(*n)
	return &size
}

// Object reads an object; nil where it is absent. Errors of the inner one must be asked for with Take.
func (o *Object) Object(name string) *Object {
	raw := o.typed(name, "an object")
	if raw == nil {
		return nil
	}
	return newObject(o.Path(name), raw)
}

// Take makes an error of an inner object one of o.
func (o *Object) Take(inner *Object) {
	if inner != nil && inner.err != nil {
		o.FailWith(inner.err)
	}
}

// Members calls yield for each member of a field that is an object, in order, while nothing is wrong.
func (o *Object) Members(name string, yield func(key string, value json.RawMessage)) {
	inner := o.Object(name)
	if inner == nil {
		return
	}
	o.Take(inner)
	if o.err != nil {
		return
	}
	err := members(o.Raw(name), func(key string, value json.RawMessage) error {
		yield(key, value)
		return o.err
	})
	o.FailWith(err)
}

// List reads an array; nil where it is absent, not nil where it is empty.
func (o *Object) List(name string) []json.RawMessage {
	raw := o.typed(name, "an array")
	if raw == nil {
		return nil
	}
	if list := elements(raw); list != nil {
		return list
	}
	return []json.RawMessage{}
}

// Objects reads an array of objects and calls yield for each until something is wrong.
func (o *Object) Objects(name string, yield func(inner *Object)) {
	for i, raw := range o.List(name) {
		inner := newObject(o.Path(name)+"["+strconv.Itoa(i)+"]", raw)
		if inner.err == nil {
			yield(inner)
		}
		o.Take(inner)
		if o.err != nil {
			return
		}
	}
}

// Strings reads a string, or an array of strings; nil where it is absent.
func (o *Object) Strings(name string) []string {
	raw := o.Raw(name)
	switch kind(raw) {
	case "null":
		return nil
	case "a string":
		return []string{o.String(name)}
	case "an array":
	default:
		o.Fail(name, "must be a string or an array of strings, not "+kind(raw))
		return nil
	}
	list := []string{}
	for i, raw := range elements(raw) {
		if got := kind(raw); got != "a string" {
			o.Fail(name+"["+strconv.Itoa(i)+"]", "must be a string, not "+got)
			return nil
		}
		s, err := text(raw)
		if err != nil {
			o.Fail(name+"["+strconv.Itoa(i)+"]", "is not a valid string")
			return nil
		}
		list = append(list, s)
	}
	return list
}

// Kind says what a field is: null, true or false, a number, a string, an array, an object.
func (o *Object) Kind(name string) string { return kind(o.Raw(name)) }

// Number reads a value that is a number.
func Number(raw json.RawMessage) (float64, bool) {
	if kind(raw) != "a number" {
		return 0, false
	}
	return number(raw)
}

func number(raw json.RawMessage) (float64, bool) {
	f, err := strconv.ParseFloat(string(raw), 64)
	return f, err == nil
}

func kind(raw json.RawMessage) string {
	i := skipSpace(raw, 0)
	if i >= len(raw) {
		return "null"
	}
	switch raw[i] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}

func short(raw json.RawMessage) string {
	const most = 40
	if len(raw) > most {
		return string(raw[:most]) + "…"
	}
	return string(raw)
}
