package bus_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/bus/bustest"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// through dials the site through a cable.
func through(tb testing.TB, s *site, w *bustest.Cable, c bus.Credentials, clocks bus.Clocks) *bus.Conn {
	tb.Helper()
	if clocks.Silence == 0 {
		clocks.Silence = patience
	}
	return bustest.Dial(tb, s.over(w.URL(), c).WithClocks(clocks))
}

func TestASlowReaderHoldsUpItselfOnly(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	agent, controller := s.agent(t, "n1"), s.controller(t)
	var sent [2]atomic.Int64
	serve(t, agent, "n1", 2, func(_ context.Context, decode func(any) error, w *bus.StreamWriter) error {
		var which count
		if err := decode(&which); err != nil {
			return err
		}
		for i := range 20000 {
			if err := w.Send(count{i + 1}); err != nil {
				return err
			}
			sent[which.N].Add(1)
		}
		return nil
	})
	slow := call("n1", "slow", 0)
	slow.Window = 100
	slowStream, fast := open(t, controller, slow), open(t, controller, call("n1", "fast", 1))
	if err := readAll(t.Context(), fast, 1, 20000); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the window is full", func() bool { return sent[0].Load() >= 100 })
	if n := sent[0].Load(); n != 100 {
		t.Errorf("%d messages were sent to a reader that read none, want the window: 100", n)
	}
	if err := readAll(t.Context(), slowStream, 1, 20000); err != nil {
		t.Error(err)
	}
}

func TestBigMessagesAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	agent, controller := s.agent(t, "n1"), s.controller(t)
	var sent atomic.Int64
	text := strings.Repeat("x", bus.RingBytes/8)
	serve(t, agent, "n1", 1, func(_ context.Context, _ func(any) error, w *bus.StreamWriter) error {
		for range 100 {
			if err := w.Send(text); err != nil {
				return err
			}
			sent.Add(1)
		}
		return w.Send(text + strings.Repeat(text, 16)) // more than the bound: alone
	})
	stream := open(t, controller, call("n1", "a", 0))
	eventually(t, "the sender is held up", func() bool { return sent.Load() == 7 })
	var got string
	for range 100 {
		if err := stream.Next(t.Context(), &got); err != nil || got != text {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
	}
	if n := sent.Load(); n > 100 {
		t.Errorf("sent %d", n)
	}
	if err := stream.Next(t.Context(), &got); err != nil || len(got) != 17*len(text) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if err := stream.Next(t.Context(), &got); !errors.Is(err, io.EOF) {
		t.Errorf("got %v at the end", err)
	}
}

// paced sends numbers, with a pause now and then, so that a cable can be cut meanwhile.
func paced(ctx context.Context, decode func(any) error, w *bus.StreamWriter) error {
	var to count
	if err := decode(&to); err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i := range to.N {
		if i%20 == 0 {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if err := w.Send(count{i + 1}); err != nil {
			return err
		}
	}
	return nil
}

func TestACutCableLosesNothing(t *testing.T) {
	t.Parallel()
	for _, side := range []string{"reader", "sender", "both"} {
		t.Run(side, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			cable := bustest.NewCable(t, s.Server.Addr())
			agent, reader := s.agent(t, "n1"), s.controller(t)
			if side != "reader" {
				agent = through(t, s, cable, s.Agent(t, "n1"), bus.Clocks{})
			}
			if side != "sender" {
				reader = through(t, s, cable, bustest.Credentials(t, s.Authority.SignController), bus.Clocks{})
			}
			serve(t, agent, "n1", 8, paced)
			const streams, each = 8, 4000
			var wg sync.WaitGroup
			var read atomic.Int64
			errs := make([]error, streams)
			for i := range streams {
				stream := open(t, reader, call("n1", fmt.Sprintf("s%d", i), each))
				wg.Go(func() {
					for want := 1; ; want++ {
						var got count
						err := stream.Next(t.Context(), &got)
						if errors.Is(err, io.EOF) && want == each+1 {
							return
						}
						if err != nil || got.N != want {
							errs[i] = fmt.Errorf("got %d, %w; want %d", got.N, err, want)
							return
						}
						read.Add(1)
					}
				})
			}
			for cut := range int64(3) {
				eventually(t, "the streams go on", func() bool { return read.Load() > (2*cut+1)*streams*each/8 })
				cable.Cut()
			}
			wg.Wait()
			if err := errors.Join(errs...); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTheEndIsNotLost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cable := bustest.NewCable(t, s.Server.Addr())
	connected := make(chan bool, 16)
	o := s.over(cable.URL(), s.Agent(t, "n1"))
	o.OnState = func(up bool, _ error) { connected <- up }
	agent, controller := bustest.Dial(t, o), s.controller(t)
	<-connected
	last := make(chan struct{})
	serve(t, agent, "n1", 1, func(_ context.Context, _ func(any) error, w *bus.StreamWriter) error {
		if err := w.Send(count{1}); err != nil {
			return err
		}
		<-last
		return w.Send(count{2})
	})
	stream := open(t, controller, call("n1", "a", 0))
	if err := stream.Next(t.Context(), &count{}); err != nil {
		t.Fatal(err)
	}
	cable.Set(false)
	for <-connected { // until it knows
	}
	close(last) // the handler ends while nobody can hear it
	cable.Set(true)
	if err := readAll(t.Context(), stream, 2, 2); err != nil {
		t.Error(err)
	}
}

func TestServerRestart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	addr := s.Server.Addr()
	agent := s.agent(t, "n1")
	reader := bustest.Dial(t, s.over(s.Server.URL(), bustest.Credentials(t, s.Authority.SignController)))
	serve(t, agent, "n1", 1, paced)
	const each = 10000
	stream := open(t, reader, call("n1", "a", each))
	if err := read(t.Context(), stream, 1, each/2); err != nil {
		t.Fatal(err)
	}
	bustest.Stop(t, s.Server)
	s.Server = s.Start(t, addr, nil)
	if err := readAll(t.Context(), stream, each/2+1, each); err != nil {
		t.Error(err)
	}
}

func read(ctx context.Context, s *bus.Stream, from, to int) error {
	for want := from; want <= to; want++ {
		var got count
		if err := s.Next(ctx, &got); err != nil || got.N != want {
			return fmt.Errorf("got %d, %w; want %d", got.N, err, want)
		}
	}
	return nil
}

func TestASilentSenderIsNoticed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cable := bustest.NewCable(t, s.Server.Addr())
	agent, controller := through(t, s, cable, s.Agent(t, "n1"), bus.Clocks{Alive: 50 * time.Millisecond}), s.controller(t)
	serve(t, agent, "n1", 1, func(ctx context.Context, _ func(any) error, _ *bus.StreamWriter) error {
		<-ctx.Done()
		return context.Cause(ctx)
	})
	o := call("n1", "a", 0)
	o.Gap = 4 * time.Second
	stream := open(t, controller, o)
	ctx, cancel := context.WithTimeout(t.Context(), o.Gap*3/2)
	defer cancel()
	if err := stream.Next(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with signs of life, got %v", err)
	}
	cable.Set(false)
	err := stream.Next(t.Context(), nil)
	code(t, err, cluster.CodeNodeLost)
	if !strings.Contains(err.Error(), "within 4s") {
		t.Errorf("got %v", err)
	}
}

func TestAReaderThatWentAwayStopsTheSender(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		clocks bus.Clocks
		want   string
	}{
		{"the server says so", bus.Clocks{Alive: 20 * time.Millisecond, Absent: 100 * time.Millisecond, Silence: time.Hour}, "went away"},
		{"nothing is heard", bus.Clocks{Silence: 300 * time.Millisecond, Absent: time.Hour}, "no sign of life"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			ended := make(chan error, 1)
			agent := bustest.Dial(t, s.over(s.Server.URL(), s.Agent(t, "n1")).WithClocks(tt.clocks))
			serve(t, agent, "n1", 1, func(ctx context.Context, _ func(any) error, w *bus.StreamWriter) error {
				var err error
				for err == nil {
					err = w.Send(count{1})
				}
				ended <- errors.Join(context.Cause(ctx), err)
				return err
			})
			cable := bustest.NewCable(t, s.Server.Addr())
			reader := through(t, s, cable, bustest.Credentials(t, s.Authority.SignController), bus.Clocks{})
			open(t, reader, call("n1", "a", 0))
			cable.Set(false)
			err := <-ended
			code(t, err, cluster.CodeCancelled)
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ended with %v, want %q", err, tt.want)
			}
		})
	}
}

func TestACancelWaitsForTheConnection(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	agent := s.agent(t, "n1")
	ended := make(chan error, 1)
	serve(t, agent, "n1", 1, func(ctx context.Context, _ func(any) error, _ *bus.StreamWriter) error {
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil
	})
	cable := bustest.NewCable(t, s.Server.Addr())
	reader := through(t, s, cable, bustest.Credentials(t, s.Authority.SignController), bus.Clocks{})
	stream := open(t, reader, call("n1", "a", 0))
	cable.Set(false)
	eventually(t, "the cut is noticed", func() bool { return !reader.Connected() })
	stream.Cancel()
	cable.Set(true)
	err := <-ended
	if !errors.Is(err, cluster.Errorf(cluster.CodeCancelled, "the reader cancelled the stream")) {
		t.Errorf("ended with %v", err)
	}
}

func TestCloseEndsStreams(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	agent := s.agent(t, "n1")
	ctl := bustest.Dial(t, s.over(s.Server.URL(), bustest.Credentials(t, s.Authority.SignController)))
	ended := make(chan error, 2)
	h := func(ctx context.Context, _ func(any) error, _ *bus.StreamWriter) error {
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return ctx.Err()
	}
	sub := serve(t, agent, "n1", 1, h)
	stream := open(t, ctl, call("n1", "a", 0))
	if err := sub.Close(); err != nil {
		t.Fatal(err)
	}
	code(t, <-ended, cluster.CodeUnreachable)
	code(t, stream.Next(t.Context(), nil), cluster.CodeUnreachable)

	serve(t, agent, "n1", 1, h)
	stream = open(t, ctl, call("n1", "b", 0))
	if err := ctl.Close(); err != nil {
		t.Fatal(err)
	}
	code(t, <-ended, cluster.CodeCancelled)
	code(t, stream.Next(t.Context(), nil), cluster.CodeUnreachable)
	_, err := ctl.OpenStream(t.Context(), call("n1", "c", 0))
	code(t, err, cluster.CodeUnreachable)
}
