package wire_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/wire"
)

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	for _, c := range []struct{ name, body, field, message string }{
		{"nothing", "", "", "the body is empty"},
		{"space", " \n", "", "the body is empty"},
		{"cut", `{"a":`, "", "the body is not valid JSON"},
		{"two documents", `{} {}`, "", "after top-level value"},
		{"trailing comma", `{"a":1,}`, "", "the body is not valid JSON"},
		{"not UTF-8", "{\"a\":\"\xff\"}", "", "the body is not valid UTF-8"},
		{"array", `[]`, "", "the body must be an object, not an array"},
		{"null", `null`, "", "the body must be an object, not null"},
		{"twice", `{"a":1,"b":2,"a":3}`, "a", "a is there twice"},
		{"twice, escaped", `{"a":1,"\u0061":3}`, "a", "a is there twice"},
		{"deep", `{"a":` + deep + `}`, "", "deeper than 100 levels"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := wire.Parse([]byte(c.body))
			e := cluster.AsError(err)
			if e == nil || e.Code != cluster.CodeInvalid || e.Field != c.field || !strings.Contains(e.Message, c.message) {
				t.Errorf("got %+v, want field %q and message %q", e, c.field, c.message)
			}
		})
	}
}

func TestObjectReads(t *testing.T) {
	t.Parallel()
	o, err := wire.Parse([]byte("\xef\xbb\xbf" + ` { "s" : "a\nb" , "n":null, "i":-7, "whole": 3e2,"f":0.5,
		"t":true, "list" : [ 1 , "x,]" ,{"k":[2]}, [] ] , "e":[ ], "o":{"b":"]}\"{","a":{}}, "one":"x","many":["x","y"] } `))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, raw := range o.List("list") {
		list = append(list, string(raw))
	}
	var keys []string
	o.Members("o", func(key string, value json.RawMessage) { keys = append(keys, key+"="+string(value)) })
	for _, c := range []struct {
		what string
		isOK bool
	}{
		{"string", o.String("s") == "a\nb"},
		{"absent string", o.String("none") == "" && o.String("n") == ""},
		{"int", *o.Int("i") == -7 && *o.Size("i") == -7},
		{"int as float", *o.Int("whole") == 300},
		{"absent number", o.Int("n") == nil && o.Float("none") == nil && o.Size("none") == nil},
		{"float", *o.Float("f") == 0.5},
		{"bool", o.Bool("t") && !o.Bool("n")},
		{"list", strings.Join(list, "|") == `1|"x,]"|{"k":[2]}|[]`},
		{"empty list", o.List("e") != nil && len(o.List("e")) == 0 && o.List("none") == nil},
		{"members in order", strings.Join(keys, "|") == `b="]}\"{"|a={}`},
		{"strings", strings.Join(o.Strings("one"), "|") == "x" && strings.Join(o.Strings("many"), "|") == "x|y"},
		{"null is absent", !o.Has("n") && o.Has("e")},
		{"no error", o.Err() == nil},
	} {
		if !c.isOK {
			t.Errorf("%s: wrong; error %v", c.what, o.Err())
		}
	}
}

func TestObjectNamesTheField(t *testing.T) {
	t.Parallel()
	const body = `{"s":"x","i":1,"half":0.5,"huge":1e300,"beyond":1e999,"list":[{"a":1},2],"o":{"b":1,"b":2},"mixed":["a",1]}`
	for _, c := range []struct {
		name  string
		read  func(o *wire.Object)
		field string
		claim string
	}{
		{"string", func(o *wire.Object) { o.String("i") }, "i", "must be a string, not a number"},
		{"bool", func(o *wire.Object) { o.Bool("s") }, "s", "must be true or false, not a string"},
		{"float", func(o *wire.Object) { o.Float("s") }, "s", "must be a number, not a string"},
		{"float beyond", func(o *wire.Object) { o.Float("beyond") }, "beyond", "is too large a number"},
		{"half", func(o *wire.Object) { o.Int("half") }, "half", "must be a whole number, not 0.5"},
		{"huge", func(o *wire.Object) { o.Size("huge") }, "huge", "is too large a number"},
		{"list", func(o *wire.Object) { o.List("o") }, "o", "must be an array, not an object"},
		{"object", func(o *wire.Object) { o.Object("list") }, "list", "must be an object, not an array"},
		{"element", func(o *wire.Object) { o.Objects("list", func(*wire.Object) {}) }, "list[1]", "must be an object, not a number"},
		{"in an element", func(o *wire.Object) {
			o.Objects("list", func(in *wire.Object) { in.String("a") })
		}, "list[0].a", "must be a string, not a number"},
		{"members", func(o *wire.Object) { o.Members("o", func(string, json.RawMessage) {}) }, "o.b", "is there twice"},
		{"strings", func(o *wire.Object) { o.Strings("mixed") }, "mixed[1]", "must be a string, not a number"},
		{"no strings", func(o *wire.Object) { o.Strings("i") }, "i", "must be a string or an array of strings, not a number"},
		{"first error counts", func(o *wire.Object) { o.Bool("i"); o.Bool("s") }, "i", "must be true or false, not a number"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o, err := wire.Parse([]byte(body))
			if err != nil {
				t.Fatal(err)
			}
			c.read(o)
			e := cluster.AsError(o.Err())
			if e == nil || e.Code != cluster.CodeInvalid || e.Field != c.field || e.Message != c.field+" "+c.claim {
				t.Errorf("got %+v, want %s %s", e, c.field, c.claim)
			}
		})
	}
}

func TestLoneSurrogatesAreMended(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{`"\ud83d\ude00"`, `"\ud83d\ude00"`},
		{`"\ud83d"`, `"\ufffd"`},
		{`"\ude00\ud83d x"`, `"\ufffd\ufffd x"`},
		{`"\ud83d\ud83d\ude00"`, `"\ufffd\ud83d\ude00"`},
		{`"\\ud83d \u00e9"`, `"\\ud83d \u00e9"`},
	} {
		o, err := wire.Parse([]byte(`{"a":` + c.in + `}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(o.Raw("a")); got != c.want {
			t.Errorf("%s became %s, want %s", c.in, got, c.want)
		}
	}
}

// FuzzParse compares with encoding/json, which knows the same fields in another way.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1,{"b":"\\\""}],"c":"\ud800"}`, `{"a" : null ,"b":-1e5}`, `[`, `{"a":1}x`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := wire.Parse(body)
		if err != nil {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal([]byte(strings.TrimPrefix(string(body), "\xef\xbb\xbf")), &want); err != nil {
			t.Fatalf("accepted %q: %v", body, err)
		}
		for key, value := range want {
			got := string(o.Raw(key))
			if string(value) != "null" && got != string(value) {
				t.Fatalf("field %q of %q: got %q, want %q", key, body, got, value)
			}
		}
	})
}
