package bus_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

type count struct {
	N int `json:"n"`
}

// counting sends as many numbers as it is asked for.
func counting(_ context.Context, decode func(any) error, w *bus.StreamWriter) error {
	var to count
	if err := decode(&to); err != nil {
		return err
	}
	for i := range to.N {
		if err := w.Send(count{i + 1}); err != nil {
			return err
		}
	}
	return nil
}

func serve(tb testing.TB, c *bus.Conn, node cluster.NodeID, limit int, h bus.StreamHandler) *bus.Subscription {
	tb.Helper()
	sub, err := c.ServeStreams(bus.CommandSubject(node, bus.VerbInfer), bus.ControlSubject(node), limit, h)
	if err != nil {
		tb.Fatal(err)
	}
	return sub
}

func call(node cluster.NodeID, id string, n int) bus.StreamCall {
	return bus.StreamCall{
		Subject: bus.CommandSubject(node, bus.VerbInfer), Reply: bus.ReplySubject(node, id), Control: bus.ControlSubject(node),
		ID: id, Body: count{n}, Gap: patience,
	}
}

func open(tb testing.TB, c *bus.Conn, o bus.StreamCall) *bus.Stream {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	s, err := c.OpenStream(ctx, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// readAll reads from a number to the end, and fails on anything that is not the next one.
func readAll(ctx context.Context, s *bus.Stream, from, to int) error {
	for want := from; ; want++ {
		var got count
		err := s.Next(ctx, &got)
		switch {
		case errors.Is(err, io.EOF) && want == to+1:
			return nil
		case err != nil:
			return fmt.Errorf("after %d: %w", want-1, err)
		case got.N != want:
			return fmt.Errorf("got %d, want %d", got.N, want)
		}
	}
}

func TestStreamsAreWholeAndInOrder(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	agent, controller := s.agent(t, "n1"), s.controller(t)
	serve(t, agent, "n1", 32, counting)
	const streams, each = 32, 3125
	errs := make([]error, streams)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range streams {
		wg.Go(func() {
			stream, err := controller.OpenStream(t.Context(), call("n1", fmt.Sprintf("s%d", i), each))
			if err != nil {
				errs[i] = err
				return
			}
			errs[i] = errors.Join(readAll(t.Context(), stream, 1, each), stream.Close())
		})
	}
	wg.Wait()
	t.Logf("%.0f messages/s", streams*each/time.Since(start).Seconds())
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	agent, controller := s.agent(t, "n1"), s.controller(t)
	release := make(chan struct{})
	serve(t, agent, "n1", 2, func(ctx context.Context, _ func(any) error, _ *bus.StreamWriter) error {
		select {
		case <-release:
			return cluster.Errorf(cluster.CodeBusy, "slots are taken").WithHint("wait")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	first, second := open(t, controller, call("n1", "a", 1)), open(t, controller, call("n1", "b", 1))
	_, err := controller.OpenStream(t.Context(), call("n1", "c", 1))
	code(t, err, cluster.CodeBusy)
	taken := call("n1", "a", 1)
	taken.Reply = bus.ReplySubject("n1", "other")
	_, err = controller.OpenStream(t.Context(), taken)
	code(t, err, cluster.CodeConflict)
	taken.ID = "a.b"
	_, err = controller.OpenStream(t.Context(), taken)
	code(t, err, cluster.CodeInvalid)
	close(release)
	for _, stream := range []*bus.Stream{first, second} {
		err := stream.Next(t.Context(), nil)
		want := cluster.Error{Code: cluster.CodeBusy, Message: "slots are taken", Hint: "wait"}
		if got := cluster.AsError(err); got == nil || *got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if again := stream.Next(t.Context(), nil); !errors.Is(again, err) {
			t.Errorf("then got %v", again)
		}
	}
	eventually(t, "the slots are free again", func() bool {
		stream, err := controller.OpenStream(t.Context(), call("n1", "d", 1))
		if err == nil {
			_ = stream.Close()
		}
		return err == nil
	})
}

func TestCancelReachesTheHandlerAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	never := bus.Clocks{Alive: time.Hour, Silence: time.Hour, Absent: time.Hour} // no other word ends it
	agent, controller := bustest.Dial(t, s.over(s.Server.URL(), s.Agent(t, "n1")).WithClocks(never)), s.controller(t)
	ended := make(chan error, 1)
	serve(t, agent, "n1", 8, func(ctx context.Context, _ func(any) error, w *bus.StreamWriter) error {
		for w.Send(count{1}) == nil { // it waits for room
		}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return ctx.Err()
	})
	for name, end := range map[string]func(*bus.Stream){
		"cancel": (*bus.Stream).Cancel, "close": func(s *bus.Stream) { _ = s.Close() },
	} {
		stream := open(t, controller, call("n1", name, 1))
		if err := stream.Next(t.Context(), &count{}); err != nil {
			t.Fatal(err)
		}
		end(stream)
		select {
		case err := <-ended:
			code(t, err, cluster.CodeCancelled)
		case <-time.After(patience):
			t.Fatalf("%s does not reach the handler", name)
		}
		code(t, stream.Next(t.Context(), &count{}), cluster.CodeCancelled)
	}
}

func TestAnUnwantedStreamIsCancelled(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	controller := s.controller(t)
	agent := s.raw(t, s.Agent(t, "n1"))
	opens, words := make(chan *nats.Msg, 4), make(chan *nats.Msg, 4)
	for subject, ch := range map[string]chan *nats.Msg{bus.CommandSubject("n1", bus.VerbInfer): opens, bus.ControlSubject("n1") + ".*": words} {
		if _, err := agent.ChanSubscribe(subject, ch); err != nil {
			t.Fatal(err)
		}
	}
	if err := agent.Flush(); err != nil {
		t.Fatal(err)
	}
	late := errors.New("late")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-opens
		cancel(late)
	}()
	if _, err := controller.OpenStream(ctx, call("n1", "a", 1)); !errors.Is(err, late) {
		t.Errorf("got %v, want the cause", err)
	}
	m := <-words
	if kind, _, _, _, err := bus.DecodeFrame(m.Data); kind != "cancel" || err != nil {
		t.Errorf("agent was told %q, %v", m.Data, err)
	}
}

func TestManyShortStreams(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	agent, controller := s.agent(t, "n1"), s.controller(t)
	serve(t, agent, "n1", 64, counting)
	var wg sync.WaitGroup
	for worker := range 32 {
		wg.Go(func() {
			for i := range 100 {
				stream, err := controller.OpenStream(t.Context(), call("n1", fmt.Sprintf("w%d-%d", worker, i), 1))
				if err == nil {
					err = errors.Join(readAll(t.Context(), stream, 1, 1), stream.Close())
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A service that finishes lets what it has come to its end, to the last word, and takes nothing new.
func TestFinishLetsStreamsEnd(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	let := make(chan struct{})
	sub, err := s.controller(t).ServeStreams(bus.APISubject("generate"), bus.APIControl(), 8,
		func(ctx context.Context, _ func(any) error, w *bus.StreamWriter) error {
			if err := w.Send("first"); err != nil {
				return err
			}
			select {
			case <-let:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			return w.Send("last")
		})
	if err != nil {
		t.Fatal(err)
	}
	me := s.client(t, "me")
	call := func(id string) bus.StreamCall {
		return bus.StreamCall{Subject: bus.APISubject("generate"), Reply: bus.ClientSubject("me", id), Control: bus.APIControl(), ID: id}
	}
	stream, err := me.OpenStream(t.Context(), call("one"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		sub.Finish(context.Background())
	}()
	n := 0
	eventually(t, "nothing new is taken", func() bool {
		n++
		late, err := me.OpenStream(t.Context(), call(fmt.Sprintf("late%d", n)))
		if err == nil {
			late.Cancel()
			_ = late.Close()
			return false
		}
		code(t, err, cluster.CodeUnreachable)
		return true
	})
	select {
	case <-finished:
		t.Error("it finished before its stream")
	default:
	}
	close(let)
	for _, want := range []string{"first", "last"} {
		var got string
		if err := stream.Next(t.Context(), &got); err != nil || got != want {
			t.Fatalf("got %q, %v, not %q", got, err, want)
		}
	}
	var more string
	if err := stream.Next(t.Context(), &more); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %q, %v", more, err)
	}
	<-finished
	if err := sub.Close(); err != nil {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	sub.Finish(ended) // it is closed: nothing is left to wait for
}
