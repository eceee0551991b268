package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway"
)

// untilGone answers with one word, if any, and then waits for the end of its client.
func untilGone(word string) func(context.Context, *cluster.Request, func(cluster.Chunk) error) error {
	return func(ctx context.Context, _ *cluster.Request, emit func(cluster.Chunk) error) error {
		if word != "" {
			if err := emit(cluster.Chunk{Text: word}); err != nil {
				return err
			}
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}
}

func TestKeepAlive(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	b := &backend{answer: func(_ context.Context, _ *cluster.Request, emit func(cluster.Chunk) error) error {
		if err := emit(cluster.Chunk{Progress: &cluster.Progress{Phase: cluster.PhaseLoading}}); err != nil {
			return err
		}
		<-release
		return errors.Join(emit(cluster.Chunk{Text: "late"}), emit(last(1)))
	}}
	s := start(t, gateway.Options{Backend: b, Times: gateway.Times{Hold: 20 * time.Millisecond, KeepAlive: 20 * time.Millisecond}})
	resp := s.ask(t.Context(), t, "POST", chatPath, askMore)
	body := stream(resp.Body)
	for range 3 {
		if ev, err := body.next(); err != nil || ev.comment != "keep-alive" || ev.data != "" {
			t.Fatalf("got %+v, %v", ev, err)
		}
	}
	close(release)
	if got := collect(t, body.r); got.text != "late" || !got.done {
		t.Errorf("got %+v", got)
	}
}

func TestLateErrorOfAHeldStream(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	b := &backend{answer: func(context.Context, *cluster.Request, func(cluster.Chunk) error) error {
		<-release
		return cluster.Errorf(cluster.CodeBadModel, "no weights")
	}}
	s := start(t, gateway.Options{Backend: b, Times: gateway.Times{Hold: time.Millisecond}})
	resp := s.ask(t.Context(), t, "POST", chatPath, askMore) // comes with the first sign of life
	close(release)
	if got := collect(t, resp.Body); resp.StatusCode != 200 || got.failure == nil || *got.failure.Code != "model_invalid" || got.done {
		t.Errorf("got %d, %+v", resp.StatusCode, got)
	}
}

func TestClientGone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, body, word string }{
		{"whole", ask, ""},
		{"whole, in the middle", ask, "a"},
		{"stream before the first token", askMore, ""},
		{"stream in the middle", askMore, "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			begun := make(chan struct{}, 1)
			script := untilGone(c.word)
			b := &backend{ended: make(chan error, 1), answer: func(ctx context.Context, r *cluster.Request, emit func(cluster.Chunk) error) error {
				begun <- struct{}{}
				return script(ctx, r, emit)
			}}
			const most = time.Second
			s := start(t, gateway.Options{Backend: b, Times: gateway.Times{Body: most}})
			ctx, leave := context.WithCancel(t.Context())
			left := make(chan struct{})
			go func() {
				defer close(left)
				if resp, err := s.try(ctx, "POST", chatPath, c.body); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			}()
			soon(t, begun, "the request")
			select { // the deadline of the body has nothing to say about the answer
			case err := <-b.ended:
				t.Fatalf("ended while the client was there: %v", err)
			case <-time.After(3 * most / 2):
			}
			leave()
			if err := soon(t, b.ended, "the end of the dispatch"); err == nil {
				t.Error("the dispatch was not ended")
			}
			soon(t, left, "the client")
		})
	}
}

func TestSlowClient(t *testing.T) {
	t.Parallel()
	word := strings.Repeat("x", 64<<10)
	b := &backend{ended: make(chan error, 1), answer: func(ctx context.Context, _ *cluster.Request, emit func(cluster.Chunk) error) error {
		for ctx.Err() == nil {
			if err := emit(cluster.Chunk{Text: word}); err != nil {
				return err
			}
		}
		return context.Cause(ctx)
	}}
	s := start(t, gateway.Options{Backend: b, Times: gateway.Times{Write: 200 * time.Millisecond}})
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s",
		chatPath, key, len(askMore), askMore)
	if err != nil {
		t.Fatal(err)
	}
	// It never reads.
	if err := soon(t, b.ended, "the end of the dispatch"); err == nil {
		t.Error("the dispatch was not ended")
	}
}

func TestSlowBody(t *testing.T) {
	t.Parallel()
	s := start(t, gateway.Options{Backend: &backend{}, Times: gateway.Times{Body: 50 * time.Millisecond}})
	for sent, want := range map[string]string{key: "HTTP/1.1 400 ", "sk-wrong": "HTTP/1.1 401 "} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 100\r\n\r\n{", chatPath, sent)
		if err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(conn) // the server closes
		if err != nil || !strings.HasPrefix(string(all), want) {
			t.Errorf("got %q, %v", all, err)
		}
		_ = conn.Close()
	}
}
