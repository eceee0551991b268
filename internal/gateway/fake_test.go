package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const key = "sk-right"

// patience ends what hangs; it says nothing about how long anything may take.
const patience = time.Minute

// backend answers with a script, as the controller would.
type backend struct {
	answer func(ctx context.Context, req *cluster.Request, emit func(cluster.Chunk) error) error
	reply  func(q *cluster.Aside) (*cluster.AsideReply, error)
	nodes  []cluster.Node
	models []cluster.Model
	ended  chan error // what emit or ctx said to each Dispatch at its end; nil: not wanted

	mu   sync.Mutex
	last *cluster.Request
}

func (b *backend) Dispatch(ctx context.Context, req *cluster.Request, emit func(cluster.Chunk) error) error {
	if err := req.Validate(); err != nil {
		return err
	}
	b.mu.Lock()
	b.last = req
	b.mu.Unlock()
	answer := b.answer
	if answer == nil {
		answer = words("Hello", " there")
	}
	err := answer(ctx, req, emit)
	if b.ended != nil {
		b.ended <- err
	}
	return err
}

func (b *backend) Ask(_ context.Context, q *cluster.Aside) (*cluster.AsideReply, error) {
	if err := q.Validate(); err != nil {
		return nil, err
	}
	return b.reply(q)
}

func (b *backend) Snapshot() *cluster.Snapshot { return &cluster.Snapshot{Nodes: b.nodes} }

func (b *backend) Models() []cluster.Model { return b.models }

func (b *backend) request() *cluster.Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

// words answers with these, and usage.
func words(list ...string) func(context.Context, *cluster.Request, func(cluster.Chunk) error) error {
	return func(_ context.Context, _ *cluster.Request, emit func(cluster.Chunk) error) error {
		for _, w := range list {
			if err := emit(cluster.Chunk{Text: w, Tokens: []int{1}}); err != nil {
				return err
			}
		}
		return emit(last(len(list)))
	}
}

func last(tokens int) cluster.Chunk {
	return cluster.Chunk{Finish: cluster.FinishStop, Usage: &cluster.Usage{PromptTokens: 3, CompletionTokens: tokens}}
}

// failing fails after these chunks.
func failing(err error, chunks ...cluster.Chunk) func(context.Context, *cluster.Request, func(cluster.Chunk) error) error {
	return func(_ context.Context, _ *cluster.Request, emit func(cluster.Chunk) error) error {
		for _, c := range chunks {
			if err := emit(c); err != nil {
				return err
			}
		}
		return err
	}
}

// server is a gateway on loopback.
type server struct {
	url    string
	addr   string
	client *http.Client
	stop   context.CancelFunc
	served chan error
}

func start(tb testing.TB, o gateway.Options) *server {
	tb.Helper()
	return startOn(tb, o, listen(tb))
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func startOn(tb testing.TB, o gateway.Options, l net.Listener) *server {
	tb.Helper()
	if o.APIKeys == nil {
		o.APIKeys = func() ([]string, error) { return []string{key}, nil }
	}
	ctx, stop := context.WithCancel(context.Background())
	transport := &http.Transport{MaxIdleConnsPerHost: 300}
	s := &server{
		url: "http://" + l.Addr().String(), addr: l.Addr().String(), client: &http.Client{Transport: transport},
		stop: stop, served: make(chan error, 1),
	}
	go func() { s.served <- gateway.New(o).Serve(ctx, l) }()
	tb.Cleanup(func() {
		transport.CloseIdleConnections()
		stop()
		select {
		case err := <-s.served:
			if err != nil {
				tb.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			tb.Error("Serve did not end")
		}
	})
	return s
}

// reply is a response whose body is closed with its test.
type reply struct {
	StatusCode int
	Header     http.Header
	Body       io.Reader
}

// ask sends a request with the right key.
func (s *server) ask(ctx context.Context, tb testing.TB, method, path, body string, headers ...string) *reply {
	tb.Helper()
	resp, err := s.try(ctx, method, path, body, headers...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = resp.Body.Close() })
	return &reply{StatusCode: resp.StatusCode, Header: resp.Header, Body: resp.Body}
}

func (s *server) try(ctx context.Context, method, path, body string, headers ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
		if headers[i+1] == "" {
			req.Header.Del(headers[i])
		}
	}
	return s.client.Do(req)
}

func read(tb testing.TB, resp *reply) string {
	tb.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

type apiError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

// errorOf reads an error in OpenAI's shape.
func errorOf(tb testing.TB, body string) apiError {
	tb.Helper()
	var shape struct {
		Error *apiError `json:"error"`
	}
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&shape); err != nil || shape.Error == nil || shape.Error.Message == "" || shape.Error.Type == "" {
		tb.Fatalf("not an error in OpenAI's shape (%v): %s", err, body)
	}
	return *shape.Error
}

// event is one server-sent event: data, or a comment.
type event struct{ data, comment string }

// events reads server-sent events as the standard says.
type events struct{ r *bufio.Reader }

func (e *events) next() (event, error) {
	var ev event
	var isSet bool
	for {
		line, err := e.r.ReadString('\n')
		if err != nil {
			if isSet && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return ev, err
		}
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "" && isSet:
			return ev, nil
		case line == "":
		case line[0] == ':':
			ev.comment, isSet = strings.TrimSpace(line[1:]), true
		default:
			value, ok := strings.CutPrefix(line, "data:")
			if !ok {
				return ev, errors.New("not an event: " + line)
			}
			ev.data += strings.TrimPrefix(value, " ")
			isSet = true
		}
	}
}

func stream(r io.Reader) *events { return &events{r: bufio.NewReader(r)} }

// collected is a whole stream.
type collected struct {
	text     string
	finish   string
	comments int
	usage    json.RawMessage
	failure  *apiError
	done     bool
}

func collect(tb testing.TB, r io.Reader) collected {
	tb.Helper()
	var c collected
	for s := stream(r); ; {
		ev, err := s.next()
		if errors.Is(err, io.EOF) {
			return c
		}
		if err != nil {
			tb.Fatalf("after %q: %v", c.text, err)
		}
		if err := c.add(ev); err != nil {
			tb.Fatal(err)
		}
	}
}

func (c *collected) add(ev event) error {
	if c.done || c.failure != nil {
		return errors.New("an event after the end: " + ev.data)
	}
	if ev.comment != "" {
		c.comments++
	}
	switch ev.data {
	case "":
		return nil
	case "[DONE]":
		c.done = true
		return nil
	}
	var shape struct {
		Choices []struct {
			Delta  struct{ Content string }
			Text   string
			Finish string `json:"finish_reason"`
		}
		Usage json.RawMessage
		Error *apiError
	}
	if err := json.Unmarshal([]byte(ev.data), &shape); err != nil {
		return err
	}
	c.failure = shape.Error
	for _, choice := range shape.Choices {
		c.text += choice.Delta.Content + choice.Text
		c.finish += choice.Finish
	}
	if len(shape.Usage) > 0 && !bytes.Equal(shape.Usage, []byte("null")) {
		c.usage = shape.Usage
	}
	return nil
}

// soon fails the test when it takes too long.
func soon[T any](tb testing.TB, from <-chan T, what string) T {
	tb.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		tb.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}
