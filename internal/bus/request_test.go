package bus_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

func handle(tb testing.TB, c *bus.Conn, subject string, h func(ctx context.Context, decode func(any) error) (any, error)) *bus.Subscription {
	tb.Helper()
	sub, err := c.Handle(subject, func(ctx context.Context, _ string, decode func(any) error) (any, error) { return h(ctx, decode) })
	if err != nil {
		tb.Fatal(err)
	}
	return sub
}

func TestRequests(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	agent, controller, client := s.agent(t, "n1"), s.controller(t), s.client(t, "c1")
	resolve := bus.CommandSubject("n1", bus.VerbResolve)
	handle(t, agent, resolve, func(_ context.Context, decode func(any) error) (any, error) {
		var q bus.ResolveRequest
		if err := decode(&q); err != nil {
			return nil, err
		}
		if q.Model == "none" {
			return nil, cluster.Errorf(cluster.CodeNoModel, "no model %s", q.Model).WithHint("look again")
		}
		return bus.ResolveReply{Model: cluster.Model{Name: q.Model}}, nil
	})
	var reply bus.ResolveReply
	if err := controller.Request(t.Context(), resolve, bus.ResolveRequest{Model: "tiny"}, &reply); err != nil || reply.Model.Name != "tiny" {
		t.Errorf("got %+v, %v", reply, err)
	}
	err := controller.Request(t.Context(), resolve, bus.ResolveRequest{Model: "none"}, &reply)
	want := &cluster.Error{Code: cluster.CodeNoModel, Message: "no model none", Hint: "look again"}
	if got := cluster.AsError(err); got == nil || *got != *want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	code(t, controller.Request(t.Context(), resolve, "no object", nil), cluster.CodeInvalid)

	handle(t, controller, bus.APISubject("unload"), func(context.Context, func(any) error) (any, error) { return nil, nil })
	if err := client.Request(t.Context(), bus.APISubject("unload"), nil, nil); err != nil {
		t.Error(err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	controller, client := s.controller(t), s.client(t, "c1")
	err := controller.Request(t.Context(), bus.CommandSubject("n7", bus.VerbUnload), struct{}{}, nil)
	code(t, err, cluster.CodeUnreachable)
	if e := cluster.AsError(err); e.Node != "n7" || !strings.Contains(e.Message, "n7") {
		t.Errorf("got %+v, want one that names n7", e)
	}
	_, err = controller.OpenStream(t.Context(), call("n7", "a", 1))
	code(t, err, cluster.CodeUnreachable)
	code(t, client.Request(t.Context(), bus.APISubject("info"), nil, nil), cluster.CodeUnreachable)
}

func TestTheAskerEndsARequest(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	controller, client := s.controller(t), s.client(t, "c1")
	begun, ended := make(chan struct{}, 64), make(chan error, 64)
	handle(t, controller, bus.APISubject("info"), func(ctx context.Context, _ func(any) error) (any, error) {
		begun <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	})
	mine := errors.New("mine")
	// The time to ask may be over before the question is sent: then more of it is given.
	for wait := 50 * time.Millisecond; len(begun) == 0; wait *= 2 {
		ctx, cancel := context.WithTimeoutCause(t.Context(), wait, mine)
		if err := client.Request(ctx, bus.APISubject("info"), nil, nil); !errors.Is(err, mine) {
			t.Errorf("got %v, want the cause", err)
		}
		cancel()
	}
	if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the handler's context ended with %v", err)
	}
}

func TestALostConnectionEndsARequest(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	controller := s.controller(t)
	begun := make(chan struct{})
	handle(t, controller, bus.APISubject("info"), func(ctx context.Context, _ func(any) error) (any, error) {
		close(begun)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	cable := bustest.NewCable(t, s.Server.Addr())
	o := s.over(cable.URL(), s.Client(t, "c1"))
	o.InboxPrefix = bus.ClientInbox("c1")
	client := bustest.Dial(t, o)
	result := make(chan error, 1)
	go func() { result <- client.Request(t.Context(), bus.APISubject("info"), nil, nil) }()
	<-begun
	cable.Set(false)
	code(t, <-result, cluster.CodeUnreachable)
}

func TestCloseEndsHandlers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	controller, client := s.controller(t), s.client(t, "c1")
	begun := make(chan struct{})
	sub := handle(t, controller, bus.APISubject("info"), func(ctx context.Context, _ func(any) error) (any, error) {
		close(begun)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	result := make(chan error, 1)
	go func() { result <- client.Request(t.Context(), bus.APISubject("info"), nil, nil) }()
	<-begun
	if err := sub.Close(); err != nil {
		t.Fatal(err)
	}
	code(t, <-result, cluster.CodeUnreachable)
	code(t, client.Request(t.Context(), bus.APISubject("info"), nil, nil), cluster.CodeUnreachable)
}

func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	controller, client := s.controller(t), s.client(t, "c1")
	free, started := make(chan struct{}), make(chan struct{}, 1000)
	handle(t, controller, bus.APISubject("info"), func(context.Context, func(any) error) (any, error) {
		started <- struct{}{}
		<-free
		return nil, nil
	})
	var wg sync.WaitGroup
	errs := make(chan error, 1000)
	for range 256 {
		wg.Go(func() { errs <- client.Request(t.Context(), bus.APISubject("info"), nil, nil) })
	}
	for range 256 {
		<-started
	}
	code(t, client.Request(t.Context(), bus.APISubject("info"), nil, nil), cluster.CodeBusy)
	close(free)
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// logged is a log that tests read.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func TestAPanicIsToldAndLogged(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var log logged
	o := s.over(s.Server.URL(), s.Agent(t, "n1"))
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	agent, err := bus.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agent.Close() })
	controller := s.controller(t)
	handle(t, agent, bus.CommandSubject("n1", bus.VerbUnload), func(context.Context, func(any) error) (any, error) { panic("first") })
	serve(t, agent, "n1", 1, func(context.Context, func(any) error, *bus.StreamWriter) error { panic("second") })
	code(t, controller.Request(t.Context(), bus.CommandSubject("n1", bus.VerbUnload), nil, nil), cluster.CodeInternal)
	code(t, open(t, controller, call("n1", "a", 1)).Next(t.Context(), nil), cluster.CodeInternal)
	for _, want := range []string{"first", "second", "request_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, log.String())
		}
	}
}

func TestPayloadLimit(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Server = s.Start(t, "127.0.0.1:0", func(o *bus.ServerOptions) { o.MaxPayload = 64 << 10 })
	agent, controller := s.agent(t, "n1"), s.controller(t)
	limit := controller.MaxPayload()
	if limit > 64<<10 || limit < 60<<10 {
		t.Fatalf("limit is %d", limit)
	}
	asked := make(chan struct{}, 16)
	unload := bus.CommandSubject("n1", bus.VerbUnload)
	handle(t, agent, unload, func(_ context.Context, decode func(any) error) (any, error) {
		asked <- struct{}{}
		var text string
		if err := decode(&text); err != nil {
			return nil, err
		}
		return text + text, nil
	})
	big := strings.Repeat("x", 64<<10)
	fits := big[:limit-2] // two quotes
	for _, err := range []error{
		controller.Request(t.Context(), unload, big, nil),
		controller.Publish(bus.HelloAll(), big),
		func() error {
			o := call("n1", "a", 1)
			o.Body = big
			_, err := controller.OpenStream(t.Context(), o)
			return err
		}(),
	} {
		code(t, err, cluster.CodeTooLarge)
		if err == nil || !strings.Contains(err.Error(), "65536") {
			t.Errorf("error %v does not name the limit", err)
		}
	}
	if len(asked) > 0 {
		t.Error("a message above the limit was sent")
	}
	if err := controller.Publish(bus.HelloAll(), strings.Repeat("<", 60<<10)); err != nil {
		t.Errorf("a message of signs that web pages escape does not go as it is: %v", err)
	}
	code(t, controller.Request(t.Context(), unload, fits, nil), cluster.CodeTooLarge) // the reply has twice as much
	if len(asked) != 1 {
		t.Error("a message within the limit was not sent")
	}

	serve(t, agent, "n1", 1, func(_ context.Context, _ func(any) error, w *bus.StreamWriter) error {
		if err := w.Send(big); cluster.CodeOf(err) != cluster.CodeTooLarge {
			return errors.New("no error")
		}
		return w.Send(fits)
	})
	stream := open(t, controller, call("n1", "b", 1))
	var got string
	if err := stream.Next(t.Context(), &got); err != nil || got != fits {
		t.Errorf("after a message above the limit came %d bytes, %v", len(got), err)
	}
	if !controller.Connected() || !agent.Connected() {
		t.Error("a connection was lost")
	}
}

func TestVersionMismatch(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	agent, controller := s.agent(t, "n1"), s.controller(t)
	unload := bus.CommandSubject("n1", bus.VerbUnload)
	handle(t, agent, unload, func(context.Context, func(any) error) (any, error) { return nil, nil })
	serve(t, agent, "n1", 1, counting)
	raw := s.raw(t, bustest.Credentials(t, s.Authority.SignController))
	ask := func(subject, text string) error {
		inbox := bus.ReplySubject("n1", nats.NewInbox()[7:])
		sub, err := raw.SubscribeSync(inbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.PublishRequest(subject, inbox, []byte(text)); err != nil {
			t.Fatal(err)
		}
		m, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _, body, err := bus.DecodeFrame(m.Data)
		if err != nil || kind != "refuse" {
			t.Fatalf("answer is %q, %v", m.Data, err)
		}
		return errors.New(string(body))
	}
	for text, want := range map[string]string{
		"2 req 0\n{}": "this side is older", "0 req 0\n{}": "the other side is older", "2 new x y z\n": "this side is older",
		"hello": "malformed", "1 d 7\n{}": "not",
	} {
		for _, subject := range []string{unload, bus.CommandSubject("n1", bus.VerbInfer)} {
			if err := ask(subject, text); !strings.Contains(err.Error(), want) && !strings.Contains(err.Error(), "takes no") {
				t.Errorf("%q on %s: got %v, want %q", text, subject, err, want)
			}
		}
	}
	// An agent that answers in another version.
	later := s.raw(t, s.Agent(t, "n2"))
	for _, verb := range []string{bus.VerbUnload, bus.VerbInfer} {
		if _, err := later.Subscribe(bus.CommandSubject("n2", verb), func(m *nats.Msg) { _ = m.Respond([]byte("2 start 0\n")) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := later.Flush(); err != nil {
		t.Fatal(err)
	}
	err := controller.Request(t.Context(), bus.CommandSubject("n2", bus.VerbUnload), nil, nil)
	code(t, err, cluster.CodeUnsupported)
	_, err = controller.OpenStream(t.Context(), call("n2", "a", 1))
	code(t, err, cluster.CodeUnsupported)
}

func TestRepliesGoOnlyWhereTheyMay(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	controller := s.controller(t)
	asked := make(chan struct{}, 16)
	handle(t, controller, bus.APISubject("info"), func(context.Context, func(any) error) (any, error) {
		asked <- struct{}{}
		return nil, nil
	})
	if _, err := controller.ServeStreams(bus.APISubject("generate"), bus.APIControl(), 1, func(context.Context, func(any) error, *bus.StreamWriter) error {
		asked <- struct{}{}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	node := s.raw(t, s.Agent(t, "n1"))
	commands, err := node.SubscribeSync("mlx.cmd.n1.>")
	if err != nil {
		t.Fatal(err)
	}
	raw := s.raw(t, s.Client(t, "c1"))
	for _, verb := range []string{"info", "generate", "ctl.nobody"} {
		for _, body := range []string{"1 req 0\n{}", "1 open 1 id\n{}", "1 resume 1\n", "bad"} {
			if err := raw.PublishRequest(bus.APISubject(verb), bus.CommandSubject("n1", bus.VerbUnload), []byte(body)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := raw.Flush(); err != nil {
		t.Fatal(err)
	}
	// What is asked properly comes after all that.
	if err := s.client(t, "c2").Request(t.Context(), bus.APISubject("info"), nil, nil); err != nil {
		t.Error(err)
	}
	if got, _, _ := commands.Pending(); got > 0 || len(asked) > 1 {
		t.Errorf("%d commands reached the node, %d handlers ran", got, len(asked))
	}
}
