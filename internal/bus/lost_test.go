package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// What can not be had again is an error: the sender started again, gave the stream up, or is asked for what was read.
func TestLostMessagesAreAnError(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	controller := s.controller(t)
	t.Run("sender started again", func(t *testing.T) {
		first := s.agent(t, "n1")
		serve(t, first, "n1", 1, paced)
		o := call("n1", "a", 1<<30)
		o.Gap = time.Hour // it is not silence that tells
		stream := open(t, controller, o)
		if err := read(t.Context(), stream, 1, 100); err != nil {
			t.Fatal(err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		second := s.agent(t, "n1")
		serve(t, second, "n1", 1, paced)
		err := drainErr(t.Context(), stream)
		if code := cluster.CodeOf(err); code != cluster.CodeUnreachable && code != cluster.CodeNodeLost {
			t.Errorf("got %v", err)
		}
	})
	t.Run("sender gave the stream up", func(t *testing.T) {
		cable := bustest.NewCable(t, s.Server.Addr())
		agent := through(t, s, cable, s.Agent(t, "n2"), bus.Clocks{Silence: 200 * time.Millisecond})
		serve(t, agent, "n2", 1, counting)
		stream := open(t, controller, call("n2", "a", 1<<20))
		if err := read(t.Context(), stream, 1, 1); err != nil {
			t.Fatal(err)
		}
		cable.Set(false)
		eventually(t, "the cut is noticed", func() bool { return !agent.Connected() })
		cable.Set(true)
		err := drainErr(t.Context(), stream)
		if got := cluster.CodeOf(err); got != cluster.CodeNodeLost && got != cluster.CodeCancelled {
			t.Errorf("got %v", err)
		}
	})
	t.Run("messages vanish", func(t *testing.T) {
		agent := s.raw(t, s.Agent(t, "n3"))
		again := make(chan uint64, 16)
		if _, err := agent.Subscribe(bus.ControlSubject("n3")+".*", func(m *nats.Msg) {
			kind, n, _, _, _ := bus.DecodeFrame(m.Data)
			if kind == "resume" {
				again <- n
				_ = m.Respond(bus.EncodeFrame("lost", 0, "", []byte(`{"code":"node_lost","message":"gone"}`)))
			}
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := agent.Subscribe(bus.CommandSubject("n3", bus.VerbInfer), func(m *nats.Msg) {
			for _, data := range [][]byte{
				bus.EncodeFrame("start", 0, "", nil), bus.EncodeFrame("d", 1, "", []byte(`{"n":1}`)),
				bus.EncodeFrame("d", 1, "", []byte(`{"n":1}`)), bus.EncodeFrame("d", 3, "", []byte(`{"n":3}`)),
			} {
				_ = m.Respond(data)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if err := agent.Flush(); err != nil {
			t.Fatal(err)
		}
		stream := open(t, controller, call("n3", "a", 0))
		if err := read(t.Context(), stream, 1, 1); err != nil {
			t.Fatal(err)
		}
		code(t, stream.Next(t.Context(), &count{}), cluster.CodeNodeLost)
		if n := <-again; n != 2 {
			t.Errorf("asked from %d on, want 2", n)
		}
	})
	t.Run("what was read is asked for", func(t *testing.T) {
		agent := s.agent(t, "n4")
		ended := make(chan error, 1)
		serve(t, agent, "n4", 1, func(ctx context.Context, decode func(any) error, w *bus.StreamWriter) error {
			err := paced(ctx, decode, w)
			ended <- err
			return err
		})
		raw := s.raw(t, bustest.Credentials(t, s.Authority.SignController))
		inbox := make(chan *nats.Msg, 1024)
		if _, err := raw.ChanSubscribe(bus.ReplySubject("n4", "a"), inbox); err != nil {
			t.Fatal(err)
		}
		say := func(subject string, data []byte) {
			if err := raw.PublishRequest(subject, bus.ReplySubject("n4", "a"), data); err != nil {
				t.Fatal(err)
			}
		}
		say(bus.CommandSubject("n4", bus.VerbInfer), bus.EncodeFrame("open", 8, "a", []byte(`{"n":1000}`)))
		control := bus.ControlSubject("n4") + ".a"
		for m := range inbox {
			kind, n, _, _, err := bus.DecodeFrame(m.Data)
			if err != nil {
				t.Fatal(err)
			}
			if kind == "d" && n == 8 {
				say(control, bus.EncodeFrame("ack", 8, "", nil))
				say(control, bus.EncodeFrame("resume", 4, "", nil))
			}
			if kind == "lost" {
				break
			}
		}
		code(t, <-ended, cluster.CodeNodeLost)
	})
}

func drainErr(ctx context.Context, s *bus.Stream) error {
	for {
		if err := s.Next(ctx, &count{}); err != nil {
			return err
		}
	}
}
