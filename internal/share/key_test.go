package share_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/share"
)

func greedy(change ...func(*cluster.Request)) *cluster.Request {
	r := &cluster.Request{
		ID: "a", Model: "tiny", Messages: []cluster.Message{{Role: "user", Content: "hi"}}, Temperature: new(0.0),
	}
	for _, c := range change {
		c(r)
	}
	return r
}

func key(t *testing.T, r *cluster.Request) share.Key {
	t.Helper()
	k, ok := share.KeyOf(r, "sha256:1")
	if !ok {
		t.Fatalf("%+v has no key", r)
	}
	return k
}

func TestWhatMakesRequestsEqual(t *testing.T) {
	t.Parallel()
	base := key(t, greedy())
	for name, change := range map[string]func(*cluster.Request){
		"id":      func(r *cluster.Request) { r.ID = "b" },
		"session": func(r *cluster.Request) { r.Session = "s" },
		"timeout": func(r *cluster.Request) { r.Timeout = time.Second },
		"seed":    func(r *cluster.Request) { r.Seed = new(int64(3)) },
	} {
		if key(t, greedy(change)) != base {
			t.Errorf("%s makes a difference", name)
		}
	}
	for name, change := range map[string]func(*cluster.Request){
		"model":          func(r *cluster.Request) { r.Model = "small" },
		"content":        func(r *cluster.Request) { r.Messages[0].Content = "hi " },
		"role":           func(r *cluster.Request) { r.Messages[0].Role = "system" },
		"tools":          func(r *cluster.Request) { r.Tools = []json.RawMessage{json.RawMessage(`{"a":1}`)} },
		"template":       func(r *cluster.Request) { r.TemplateArgs = map[string]json.RawMessage{"x": json.RawMessage(`1`)} },
		"max_tokens":     func(r *cluster.Request) { r.MaxTokens = new(3) },
		"top_k":          func(r *cluster.Request) { r.TopK = new(1) },
		"penalty":        func(r *cluster.Request) { r.PresencePenalty = new(1.0) },
		"logit_bias":     func(r *cluster.Request) { r.LogitBias = map[int]float64{1: 2} },
		"stop":           func(r *cluster.Request) { r.Stop = []string{"x"} },
		"logprobs":       func(r *cluster.Request) { r.Logprobs = true },
		"node":           func(r *cluster.Request) { r.Node = "n" },
		"prompt instead": func(r *cluster.Request) { r.Messages, r.Prompt = nil, new("hi") },
	} {
		if key(t, greedy(change)) == base {
			t.Errorf("%s makes no difference", name)
		}
	}
	if other, _ := share.KeyOf(greedy(), "sha256:2"); other == base {
		t.Error("the digest makes no difference")
	}
	for name, r := range map[string]*cluster.Request{
		"default temperature": greedy(func(r *cluster.Request) { r.Temperature = nil }),
		"sampled":             greedy(func(r *cluster.Request) { r.Temperature = new(0.1) }),
		"continued":           greedy(func(r *cluster.Request) { r.Continue = []int{1} }),
	} {
		if _, ok := share.KeyOf(r, "sha256:1"); ok {
			t.Errorf("%s may share", name)
		}
	}
	if _, ok := share.KeyOf(greedy(), ""); ok {
		t.Error("a model without a digest may share")
	}
}

// Every field of a request makes a difference, but for those that are known to make none; so does every field of a message.
func TestNoFieldOfARequestIsForgotten(t *testing.T) {
	t.Parallel()
	makesNone := map[string]bool{"ID": true, "Session": true, "Timeout": true, "Seed": true}
	sharesNothing := map[string]bool{"Continue": true, "Temperature": true} // one other than 0
	base := key(t, greedy())
	differs := func(name string, is func(*cluster.Request) reflect.Value) {
		t.Helper()
		r := greedy()
		fill(t, name, is(r))
		k, ok := share.KeyOf(r, "sha256:1")
		if want := !sharesNothing[name]; ok != want {
			t.Errorf("with %s it shares: %t", name, ok)
		} else if ok && (k == base) != makesNone[name] {
			t.Errorf("%s makes the wrong difference", name)
		}
	}
	for i := range reflect.TypeFor[cluster.Request]().NumField() {
		differs(reflect.TypeFor[cluster.Request]().Field(i).Name, func(r *cluster.Request) reflect.Value {
			return reflect.ValueOf(r).Elem().Field(i)
		})
	}
	for i := range reflect.TypeFor[cluster.Message]().NumField() {
		differs("Message."+reflect.TypeFor[cluster.Message]().Field(i).Name, func(r *cluster.Request) reflect.Value {
			return reflect.ValueOf(&r.Messages[0]).Elem().Field(i)
		})
	}
}

// fill sets a field to something that it was not.
func fill(t *testing.T, name string, v reflect.Value) {
	t.Helper()
	if raw, ok := reflect.TypeAssert[*json.RawMessage](v.Addr()); ok {
		*raw = json.RawMessage(`[1]`)
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(3)
	case reflect.Float64:
		v.SetFloat(0.5)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, name, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, name, v.Index(0))
	case reflect.Map:
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, name, k)
		fill(t, name, e)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(k, e)
	case reflect.Struct:
		fill(t, name, v.Field(0))
	default:
		t.Fatalf("%s is of a kind that this test does not know: %s", name, v.Kind())
	}
}
