package gateway_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway"
)

const (
	chatPath = "/v1/chat/completions"
	textPath = "/v1/completions"
	ask      = `{"model":"m","messages":[{"role":"user","content":"hi"}]}`
	askMore  = `{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}`
)

func TestWhole(t *testing.T) {
	t.Parallel()
	b := &backend{}
	s := start(t, gateway.Options{Backend: b})
	for path, body := range map[string]string{chatPath: ask, textPath: `{"model":"m","prompt":"hi"}`} {
		resp := s.ask(t.Context(), t, "POST", path, body)
		var got struct {
			ID      string
			Choices []struct {
				Message struct{ Content string }
				Text    string
			}
			Usage struct {
				Total int `json:"total_tokens"`
			}
		}
		if err := json.Unmarshal([]byte(read(t, resp)), &got); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: got status %d, type %q", path, resp.StatusCode, resp.Header.Get("Content-Type"))
		}
		if len(got.Choices) != 1 || got.Choices[0].Message.Content+got.Choices[0].Text != "Hello there" || got.Usage.Total != 5 {
			t.Errorf("%s: got %+v", path, got)
		}
		id := resp.Header.Get("X-Request-Id")
		if id == "" || string(b.request().ID) != id || !strings.HasSuffix(got.ID, strings.TrimPrefix(id, "r-")) {
			t.Errorf("%s: request id %q, answer %q, in the cluster %q: they must tell of each other", path, id, got.ID, b.request().ID)
		}
	}
}

func TestStream(t *testing.T) {
	t.Parallel()
	s := start(t, gateway.Options{Backend: &backend{}})
	for path, body := range map[string]string{
		chatPath: `{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}}`,
		textPath: `{"model":"m","prompt":"hi","stream":true,"stream_options":{"include_usage":true}}`,
	} {
		resp := s.ask(t.Context(), t, "POST", path, body)
		if got := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || !strings.HasPrefix(got, "text/event-stream") {
			t.Errorf("%s: got status %d, type %q", path, resp.StatusCode, got)
		}
		got := collect(t, resp.Body)
		if got.text != "Hello there" || got.finish != "stop" || !got.done || len(got.usage) == 0 || got.comments > 0 {
			t.Errorf("%s: got %+v", path, got)
		}
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	b := &backend{}
	s := start(t, gateway.Options{Backend: b})
	body := `{"model":"m","messages":[{"role":"user","content":"hi"}],"user":"u"}`
	read(t, s.ask(t.Context(), t, "POST", chatPath, body, "X-Session-Id", "s1", "X-Request-Timeout", "1.5", "Content-Type", "text/plain"))
	if got := b.request(); got.Session != "s1" || got.Timeout != 1500*time.Millisecond {
		t.Errorf("got session %q and timeout %s", got.Session, got.Timeout)
	}
	for header, value := range map[string]string{
		"X-Session-Id": strings.Repeat("s", 257), "X-Request-Timeout": "soon",
	} {
		resp := s.ask(t.Context(), t, "POST", chatPath, body, header, value)
		if e := errorOf(t, read(t, resp)); resp.StatusCode != 400 || e.Param == nil || *e.Param != header {
			t.Errorf("%s %s: got status %d, %+v", header, value, resp.StatusCode, e)
		}
	}
	for _, value := range []string{"0", "-1", "NaN", "Inf", "1e300"} {
		if resp := s.ask(t.Context(), t, "POST", chatPath, body, "X-Request-Timeout", value); resp.StatusCode != 400 {
			t.Errorf("timeout %s: got status %d", value, resp.StatusCode)
		}
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	s := start(t, gateway.Options{Backend: &backend{nodes: []cluster.Node{{State: cluster.NodeReady}}}})
	for _, c := range []struct {
		name, path, header string
		status             int
	}{
		{"right", "/v1/models", "Bearer " + key, 200},
		{"scheme in lower case", "/v1/models", "bearer " + key, 200},
		{"none", "/v1/models", "", 401},
		{"wrong", "/v1/models", "Bearer sk-wrong", 401},
		{"part of it", "/v1/models", "Bearer " + key[:4], 401},
		{"more than it", "/v1/models", "Bearer " + key + "x", 401},
		{"empty", "/v1/models", "Bearer ", 401},
		{"another scheme", "/v1/models", "Basic " + key, 401},
		{"bare", "/v1/models", key, 401},
		{"no such path", "/admin", "", 401},
		{"another method", "/v1/chat/completions", "", 401},
		{"health", "/health", "", 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			resp := s.ask(t.Context(), t, "GET", c.path, "", "Authorization", c.header)
			if resp.StatusCode != c.status {
				t.Fatalf("got status %d, want %d: %s", resp.StatusCode, c.status, read(t, resp))
			}
			if c.status != 401 {
				return
			}
			e := errorOf(t, read(t, resp))
			if *e.Code != "invalid_api_key" || !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("got %+v, WWW-Authenticate %q", e, resp.Header.Get("WWW-Authenticate"))
			}
			if strings.Contains(e.Message, key) {
				t.Errorf("the error tells the key: %s", e.Message)
			}
		})
	}
}

func TestNobodyGetsInWithoutAKey(t *testing.T) {
	t.Parallel()
	for name, apiKeys := range map[string]func() ([]string, error){
		"none":       func() ([]string, error) { return nil, nil },
		"no key":     func() ([]string, error) { return []string{""}, nil },
		"one is no":  func() ([]string, error) { return []string{key, ""}, nil },
		"unreadable": func() ([]string, error) { return []string{key}, errors.New("no such file") },
	} {
		s := start(t, gateway.Options{Backend: &backend{}, APIKeys: apiKeys})
		for _, header := range []string{"", "Bearer ", "Bearer " + key} {
			resp := s.ask(t.Context(), t, "POST", chatPath, ask, "Authorization", header)
			if e := errorOf(t, read(t, resp)); resp.StatusCode != 500 || strings.Contains(e.Message, "file") {
				t.Errorf("%s, %q: got status %d, %+v", name, header, resp.StatusCode, e)
			}
		}
	}
}

func TestEachOfSeveralKeysIsRight(t *testing.T) {
	t.Parallel()
	s := start(t, gateway.Options{Backend: &backend{}, APIKeys: func() ([]string, error) { return []string{"new", "old"}, nil }})
	for bearer, want := range map[string]int{"new": 200, "old": 200, "older": 401, "newold": 401, "": 401} {
		resp := s.ask(t.Context(), t, "POST", chatPath, ask, "Authorization", "Bearer "+bearer)
		if read(t, resp); resp.StatusCode != want {
			t.Errorf("key %q: got status %d, want %d", bearer, resp.StatusCode, want)
		}
	}
}

func TestPathsAndMethods(t *testing.T) {
	t.Parallel()
	s := start(t, gateway.Options{Backend: &backend{}})
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/", 404, ""},
		{"GET", "/v1", 404, ""},
		{"POST", "/v1/chat/completions/", 404, ""},
		{"POST", "//v1/chat/completions", 404, ""},
		{"GET", "/v1/models/", 404, ""},
		{"GET", chatPath, 405, "POST"},
		{"OPTIONS", chatPath, 405, "POST"},
		{"PUT", textPath, 405, "POST"},
		{"DELETE", "/v1/models/org/repo", 405, "GET, HEAD"},
		{"POST", "/v1/models", 405, "GET, HEAD"},
		{"POST", "/health", 405, "GET, HEAD"},
	} {
		resp := s.ask(t.Context(), t, c.method, c.path, "")
		body := read(t, resp)
		if resp.StatusCode != c.status || resp.Header.Get("Allow") != c.allow {
			t.Errorf("%s %s: got %d, Allow %q; want %d, %q", c.method, c.path, resp.StatusCode, resp.Header.Get("Allow"), c.status, c.allow)
		}
		errorOf(t, body)
		if resp.Header.Get("X-Request-Id") == "" || resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s: headers %v", c.method, c.path, resp.Header)
		}
	}
	if resp := s.ask(t.Context(), t, "HEAD", "/v1/models", ""); resp.StatusCode != 200 {
		t.Errorf("HEAD: got status %d", resp.StatusCode)
	}
}

func TestModels(t *testing.T) {
	t.Parallel()
	s := start(t, gateway.Options{Backend: &backend{models: []cluster.Model{
		{Name: "tiny"}, {Name: "org/repo"}, {Name: "/srv/models/x y"},
	}}})
	var list struct{ Data []struct{ ID string } }
	if err := json.Unmarshal([]byte(read(t, s.ask(t.Context(), t, "GET", "/v1/models", ""))), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Data) != 3 || list.Data[1].ID != "org/repo" {
		t.Errorf("got %+v", list)
	}
	for path, want := range map[string]string{
		"/v1/models/tiny":                  "tiny",
		"/v1/models/org/repo":              "org/repo",
		"/v1/models/org%2Frepo":            "org/repo",
		"/v1/models//srv/models/x%20y":     "/srv/models/x y",
		"/v1/models/%2Fsrv%2Fmodels%2Fx y": "/srv/models/x y",
	} {
		var one struct{ ID, Object string }
		resp := s.ask(t.Context(), t, "GET", strings.ReplaceAll(path, " ", "%20"), "")
		if err := json.Unmarshal([]byte(read(t, resp)), &one); err != nil || one.ID != want || one.Object != "model" {
			t.Errorf("%s: got %d, %+v, %v", path, resp.StatusCode, one, err)
		}
	}
	resp := s.ask(t.Context(), t, "GET", "/v1/models/org/other", "")
	if e := errorOf(t, read(t, resp)); resp.StatusCode != 404 || *e.Code != "model_not_found" || *e.Param != "model" {
		t.Errorf("unknown model: got %d, %+v", resp.StatusCode, e)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		nodes  []cluster.Node
		status int
		word   string
	}{
		{"a node is ready", []cluster.Node{{State: cluster.NodeDown}, {State: cluster.NodeReady}}, 200, "ok"},
		{"none is ready", []cluster.Node{{State: cluster.NodeSuspect}, {State: cluster.NodeDraining}}, 503, "no_node"},
		{"no nodes", nil, 503, "no_node"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := start(t, gateway.Options{Backend: &backend{nodes: c.nodes}, Version: "v1.2.3"})
			resp := s.ask(t.Context(), t, "GET", "/health", "", "Authorization", "")
			var got struct {
				Status, Version string
				Nodes           int
			}
			if err := json.Unmarshal([]byte(read(t, resp)), &got); err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.status || got.Status != c.word || got.Version != "v1.2.3" || got.Nodes != len(c.nodes) {
				t.Errorf("got %d, %+v", resp.StatusCode, got)
			}
		})
	}
}

func TestBodyLimits(t *testing.T) {
	t.Parallel()
	s := start(t, gateway.Options{Backend: &backend{}, MaxBodyBytes: 1000})
	large := strings.Replace(ask, "hi", strings.Repeat("x", 1000), 1)
	resp := s.ask(t.Context(), t, "POST", chatPath, large)
	if e := errorOf(t, read(t, resp)); resp.StatusCode != 413 || !strings.Contains(e.Message, "1000 bytes") {
		t.Errorf("got %d, %+v", resp.StatusCode, e)
	}
	// Without a length in front it is found while it is read.
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.url+chatPath, struct{ *strings.Reader }{strings.NewReader(large)})
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	chunked, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = chunked.Body.Close() }()
	all, err := io.ReadAll(chunked.Body)
	if err != nil {
		t.Fatal(err)
	}
	if e := errorOf(t, string(all)); chunked.StatusCode != 413 || *e.Code != "too_large" {
		t.Errorf("without a length: got %d, %+v", chunked.StatusCode, e)
	}
	exact := ask + strings.Repeat(" ", 1000-len(ask))
	if resp := s.ask(t.Context(), t, "POST", chatPath, exact); resp.StatusCode != 200 {
		t.Errorf("at the limit: got %d", resp.StatusCode)
	}
	if resp := s.ask(t.Context(), t, "POST", chatPath, ask, "Content-Encoding", "gzip"); resp.StatusCode != 400 {
		t.Errorf("gzip: got %d", resp.StatusCode)
	}
}

func TestBadBodies(t *testing.T) {
	t.Parallel()
	s := start(t, gateway.Options{Backend: &backend{}})
	for body, param := range map[string]string{
		"": "", "{": "", ask + ask: "",
		strings.Replace(ask, `}]`, `}],"max_tokens":0`, 1):                                           "max_tokens",
		strings.Replace(ask, `}]`, `}],"temperature":3`, 1):                                          "temperature", // found by Dispatch
		strings.Replace(ask, `}]`, `}],"stop":["",""]`, 1):                                           "stop[0]",
		strings.Replace(ask, `}]`, `}],"n":9,"stream":true`, 1):                                      "n",
		strings.Replace(ask, `}]`, `}],"top_k":-1,"stream":true`, 1):                                 "top_k",
		strings.Replace(ask, `"model":"`, `"model":"`+strings.Repeat("x", cluster.MaxModelBytes), 1): "model",
	} {
		resp := s.ask(t.Context(), t, "POST", chatPath, body)
		e := errorOf(t, read(t, resp))
		if resp.StatusCode != 400 || param == "" && e.Param != nil || param != "" && (e.Param == nil || *e.Param != param) {
			t.Errorf("%s: got %d, %+v, want param %q", body, resp.StatusCode, e, param)
		}
	}
}

func TestErrorsBeforeTheFirstToken(t *testing.T) {
	t.Parallel()
	for code, want := range map[cluster.Code]struct {
		status int
		retry  bool
	}{
		cluster.CodeInvalid: {400, false}, cluster.CodeUnsupported: {400, false}, cluster.CodeContext: {400, false},
		cluster.CodeNoModel: {404, false}, cluster.CodeTooLarge: {413, false}, cluster.CodeConflict: {409, false},
		cluster.CodeBadModel: {422, false}, cluster.CodeNoFit: {422, false},
		cluster.CodeBusy: {429, true}, cluster.CodeInternal: {500, false},
		cluster.CodeNodeLost: {502, true}, cluster.CodeWorkerCrashed: {502, true},
		cluster.CodeNoNode: {503, true}, cluster.CodeUnreachable: {503, true}, cluster.CodeQuarantined: {503, true},
		cluster.CodeTimeout: {504, false}, cluster.CodeCancelled: {499, false},
	} {
		progress := cluster.Chunk{Progress: &cluster.Progress{Phase: cluster.PhaseQueued}}
		b := &backend{answer: failing((&cluster.Error{Code: code, Message: "it went wrong"}).WithHint("do that"), progress)}
		s := start(t, gateway.Options{Backend: b})
		for _, body := range []string{ask, askMore} {
			resp := s.ask(t.Context(), t, "POST", chatPath, body)
			e := errorOf(t, read(t, resp))
			if resp.StatusCode != want.status || (resp.Header.Get("Retry-After") != "") != want.retry {
				t.Errorf("%s: got %d, Retry-After %q; want %d, %t", code, resp.StatusCode, resp.Header.Get("Retry-After"), want.status, want.retry)
			}
			if e.Message != "it went wrong; do that" {
				t.Errorf("%s: message %q", code, e.Message)
			}
		}
	}
}

func TestErrorsAfterTheFirstToken(t *testing.T) {
	t.Parallel()
	lost := cluster.Errorf(cluster.CodeNodeLost, "node a is gone")
	for name, err := range map[string]error{"node_lost": lost, "internal": nil} {
		b := &backend{answer: failing(err, cluster.Chunk{Text: "Hel"}, cluster.Chunk{Text: "lo"})}
		s := start(t, gateway.Options{Backend: b})
		got := collect(t, s.ask(t.Context(), t, "POST", chatPath, askMore).Body)
		if got.text != "Hello" || got.failure == nil || *got.failure.Code != name || got.done || got.finish != "" {
			t.Errorf("stream, %s: got %+v", name, got)
		}
		resp := s.ask(t.Context(), t, "POST", chatPath, ask)
		if e := errorOf(t, read(t, resp)); resp.StatusCode < 500 || *e.Code != name {
			t.Errorf("whole, %s: got %d, %+v", name, resp.StatusCode, e)
		}
	}
}
