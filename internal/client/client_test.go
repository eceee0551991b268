package client_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/client"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = bustest.Patience

// site is a cluster's bus; nobody answers there but whom a test makes.
type site struct{ *bustest.Site }

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{bustest.Prepare(t)}
	s.Server = s.Start(t, "127.0.0.1:0", func(o *bus.ServerOptions) { o.MaxPayload = 1 << 20 })
	return s
}

func (s *site) options(t *testing.T, name string) client.Options {
	t.Helper()
	return client.Options{Name: name, Bus: s.Over(s.Server.URL(), s.Client(t, name))}
}

func (s *site) client(t *testing.T, change func(*client.Options)) *client.Client {
	t.Helper()
	o := s.options(t, "me")
	if change != nil {
		change(&o)
	}
	c := bustest.Reached(t, func() (*client.Client, error) { return client.Dial(t.Context(), o) })
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// controller is the other side; hang ends it without a word to those who are under way.
func (s *site) controller(t *testing.T) *bus.Conn {
	t.Helper()
	return bustest.Dial(t, s.Inside(t))
}

func serve(t *testing.T, conn *bus.Conn, verb string, h bus.StreamHandler) *bus.Subscription {
	t.Helper()
	sub, err := conn.ServeStreams(bus.APISubject(verb), bus.APIControl(), 16, h)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

func ask() *cluster.Request {
	text := "x"
	return &cluster.Request{Model: "tiny", Prompt: &text}
}

func code(t *testing.T, err error, want cluster.Code, says string) {
	t.Helper()
	var typed *cluster.Error
	if !errors.As(err, &typed) || typed.Code != want || !strings.Contains(typed.Message, says) {
		t.Errorf("got error %v (%s), want %s that says %q", err, cluster.CodeOf(err), want, says)
	}
}

func nothing(cluster.Chunk) error { return nil }

func TestDialErrors(t *testing.T) {
	t.Parallel()
	s, other := newSite(t), newSite(t)
	for _, tt := range []struct {
		name   string
		change func(*client.Options)
		code   cluster.Code
	}{
		{"no name", func(o *client.Options) { o.Name = "" }, cluster.CodeInvalid},
		{"nobody there", func(o *client.Options) { o.Bus.URLs = []string{"tls://127.0.0.1:1"} }, cluster.CodeUnreachable},
		{"credentials of another cluster", func(o *client.Options) {
			o.Bus.Credentials = other.options(t, "me").Bus.Credentials
		}, cluster.CodeUnauthorized},
		{"another cluster there", func(o *client.Options) { o.Bus.URLs = []string{other.Server.URL()} }, cluster.CodeUnauthorized},
		{"no such file", func(o *client.Options) {
			o.Bus.Credentials, o.Bus.CredentialsFile = bus.Credentials{}, filepath.Join(t.TempDir(), "none")
		}, cluster.CodeUnauthorized},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := s.options(t, "me")
			tt.change(&o)
			c, err := client.Dial(t.Context(), o)
			if err == nil {
				_ = c.Close()
			}
			code(t, err, tt.code, "")
		})
	}
}

func TestWithoutControllerEverythingIsUnreachable(t *testing.T) {
	t.Parallel()
	c := newSite(t).client(t, nil)
	ctx := t.Context()
	code(t, c.Generate(ctx, ask(), nothing), cluster.CodeUnreachable, "controller")
	_, err := c.Snapshot(ctx)
	code(t, err, cluster.CodeUnreachable, "controller")
	_, err = c.Watch(ctx)
	code(t, err, cluster.CodeUnreachable, "controller")
	_, err = c.Load(ctx, api.LoadRequest{Model: "tiny"}, nil)
	code(t, err, cluster.CodeUnreachable, "controller")
}

func TestControllerThatStartsAgainMidStreamIsUnreachable(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var once sync.Once
	begun, dead := make(chan struct{}), make(chan struct{})
	stream := func(ctx context.Context, _ func(any) error, w *bus.StreamWriter) error {
		if err := w.Send(cluster.Chunk{Text: "x"}); err != nil {
			return err
		}
		once.Do(func() { close(begun) })
		<-ctx.Done()
		<-dead // it says nothing in the end
		return nil
	}
	// What is left of a controller that was killed: its readers are told that nobody knows their streams.
	old := s.controller(t)
	serve(t, old, api.Generate, stream)
	c := s.client(t, nil)
	got := make(chan error, 1)
	go func() { got <- c.Generate(t.Context(), ask(), nothing) }()
	<-begun
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = old.Close()
	}()
	next := s.controller(t)
	serve(t, next, api.Generate, stream)
	select {
	case err := <-got:
		code(t, err, cluster.CodeUnreachable, "the controller went away")
	case <-time.After(patience):
		t.Error("the client waits for a controller that is gone")
	}
	close(dead)
	<-closed
}

func TestAnswersThatAreNotWhole(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	serve(t, s.controller(t), api.Generate, func(_ context.Context, _ func(any) error, w *bus.StreamWriter) error {
		return w.Send(cluster.Chunk{Text: "half"})
	})
	c := s.client(t, nil)
	code(t, c.Generate(t.Context(), ask(), nothing), cluster.CodeInternal, "without its last part")
	q := ask()
	q.Model = ""
	code(t, c.Generate(t.Context(), q, nothing), cluster.CodeInvalid, "model")
	q = ask()
	*q.Prompt = strings.Repeat("x", 2<<20)
	code(t, c.Generate(t.Context(), q, nothing), cluster.CodeTooLarge, "at most")
}

func TestQuestionsTimeOutAndAreCancelled(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	asked := make(chan struct{}, 2)
	_, err := s.controller(t).Handle(bus.APISubject(api.Info), func(ctx context.Context, _ string, _ func(any) error) (any, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.client(t, func(o *client.Options) { o.Timeout = 2 * time.Second }).Info(t.Context())
	code(t, err, cluster.CodeTimeout, "within 2s")
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	_, err = s.client(t, nil).Info(ctx)
	code(t, err, cluster.CodeCancelled, "cancelled")
}

func TestCancelReachesTheController(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	why := make(chan error, 1)
	serve(t, s.controller(t), api.Generate, func(ctx context.Context, _ func(any) error, w *bus.StreamWriter) error {
		if err := w.Send(cluster.Chunk{Text: "x"}); err != nil {
			return err
		}
		<-ctx.Done()
		why <- context.Cause(ctx)
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	err := s.client(t, nil).Generate(ctx, ask(), func(cluster.Chunk) error { cancel(); return nil })
	code(t, err, cluster.CodeCancelled, "cancelled")
	select {
	case err := <-why: // and not that it found out by itself, after a while
		code(t, err, cluster.CodeCancelled, "the reader cancelled the stream")
	case <-time.After(patience):
		t.Error("the controller goes on")
	}
}
