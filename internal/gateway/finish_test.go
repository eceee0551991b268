package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway"
)

func TestServeLetsAnswersFinish(t *testing.T) {
	t.Parallel()
	begun, release := make(chan struct{}), make(chan struct{})
	b := &backend{answer: func(_ context.Context, _ *cluster.Request, emit func(cluster.Chunk) error) error {
		if err := emit(cluster.Chunk{Text: "first"}); err != nil {
			return err
		}
		close(begun)
		<-release
		return errors.Join(emit(cluster.Chunk{Text: " second"}), emit(last(2)))
	}}
	s := start(t, gateway.Options{Backend: b})
	resp := s.ask(t.Context(), t, "POST", chatPath, askMore)
	soon(t, begun, "the answer")
	s.stop()
	refused(t, s.addr)
	close(release)
	if got := collect(t, resp.Body); got.text != "first second" || !got.done {
		t.Errorf("got %+v", got)
	}
}

// refused waits until nobody listens there.
func refused(t *testing.T, addr string) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	for ctx.Err() == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return
		}
		_ = conn.Close()
	}
	t.Fatal("it still accepts connections")
}

// Told to finish, it answers what is open, for longer than the grace, and what comes over kept connections, and closes these;
// then it ends by itself.
func TestServeFinishes(t *testing.T) {
	t.Parallel()
	finish, goOn := make(chan struct{}), make(chan struct{})
	var begun atomic.Bool
	b := &backend{answer: func(ctx context.Context, r *cluster.Request, emit func(cluster.Chunk) error) error {
		if begun.CompareAndSwap(false, true) { // the stream
			if err := emit(cluster.Chunk{Text: "first"}); err != nil {
				return err
			}
			<-goOn
		}
		return words(" last")(ctx, r, emit)
	}}
	s := start(t, gateway.Options{Backend: b, Finish: finish, Times: gateway.Times{Grace: time.Millisecond, Round: 4 * time.Second}})
	resp := s.ask(t.Context(), t, "POST", chatPath, askMore)
	body := stream(resp.Body)
	if _, err := body.next(); err != nil {
		t.Fatal(err)
	}
	s.ask(t.Context(), t, "POST", chatPath, ask) // leaves a connection to be used again
	close(finish)
	for i := range 2 {
		if r := s.ask(t.Context(), t, "POST", chatPath, ask); r.StatusCode != 200 {
			t.Errorf("request %d while it finishes: %d", i, r.StatusCode)
		}
	}
	refused(t, s.addr)
	close(goOn)
	if got := collect(t, body.r); got.failure != nil || !got.done {
		t.Errorf("the stream that was open: %+v", got)
	}
	s.finished(t)
}

// openStream has a stream begin that ends when goOn is closed; what else is asked is answered with the word. The listener tells
// when it holds connections back.
func openStream(t *testing.T, word string, goOn <-chan struct{}, o gateway.Options) (*server, *events, *pausing) {
	t.Helper()
	var begun atomic.Bool
	o.Backend = &backend{answer: func(ctx context.Context, r *cluster.Request, emit func(cluster.Chunk) error) error {
		if begun.CompareAndSwap(false, true) { // the stream
			if err := emit(cluster.Chunk{Text: "first"}); err != nil {
				return err
			}
			<-goOn
		}
		return words(word)(ctx, r, emit)
	}}
	l := &pausing{Listener: listen(t), paused: make(chan struct{}, 1)}
	s := startOn(t, o, l)
	body := stream(s.ask(t.Context(), t, "POST", chatPath, askMore).Body)
	if _, err := body.next(); err != nil {
		t.Fatal(err)
	}
	return s, body, l
}

// pausing is a listener that tells when its Accept was ended by a deadline, which is how Serve begins a pause.
type pausing struct {
	net.Listener
	paused chan struct{} // buffered: one is enough
}

func (l *pausing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		select {
		case l.paused <- struct{}{}:
		default:
		}
	}
	return c, err
}

func (l *pausing) SetDeadline(at time.Time) error {
	return l.Listener.(*net.TCPListener).SetDeadline(at) //nolint:forcetypeassert // listen makes no other
}

// finished waits for the end of Serve, which is no failure.
func (s *server) finished(t *testing.T) {
	t.Helper()
	err := soon(t, s.served, "the end of Serve")
	if s.served <- err; err != nil { // for the end of the test
		t.Errorf("Serve: %v", err)
	}
}

// Whoever comes in a pause is left to the next who serves the same socket, when the pause is the end.
func TestFinishLeavesWhoComesInAPauseToTheNext(t *testing.T) {
	t.Parallel()
	finish, goOn := make(chan struct{}, 1), make(chan struct{})
	times := gateway.Times{Grace: time.Millisecond, Round: time.Millisecond, Pause: patience}
	s, body, l := openStream(t, "the first", goOn, gateway.Options{Finish: finish, Times: times})
	heir := sameSocket(t, l.Listener)
	finish <- struct{}{}
	soon(t, l.paused, "the pause")
	answered := make(chan string, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// A client of its own: that of the stream would ask on the stream's connection, were it done first.
	comer := *s
	comer.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	go func() {
		resp, err := comer.try(ctx, "POST", chatPath, ask)
		if err != nil {
			answered <- err.Error()
			return
		}
		all, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		answered <- string(all)
	}()
	close(goOn)
	if got := collect(t, body.r); got.failure != nil || !got.done {
		t.Errorf("the stream that was open: %+v", got)
	}
	s.finished(t)
	startOn(t, gateway.Options{Backend: &backend{answer: words("the next")}}, heir)
	if got := soon(t, answered, "the answer"); !strings.Contains(got, `"the next"`) {
		t.Errorf("who came in the pause got %s", got)
	}
}

// sameSocket is another listener of it, as a process that follows has.
func sameSocket(t *testing.T, l net.Listener) net.Listener {
	t.Helper()
	f, err := l.(*net.TCPListener).File() //nolint:forcetypeassert // listen makes no other
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	heir, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return heir
}

// While a stream outlasts a pause, whoever comes is served. When it is over Serve ends by itself, and at the last call it takes
// nobody any more, stream or no stream.
func TestFinishHoldsNobodyBackForLong(t *testing.T) {
	t.Parallel()
	for name, isLastCall := range map[string]bool{"the stream ends": false, "last call": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			finish, goOn := make(chan struct{}, 1), make(chan struct{})
			times := gateway.Times{Grace: time.Millisecond, Round: time.Millisecond, Pause: 50 * time.Millisecond}
			s, body, l := openStream(t, " last", goOn, gateway.Options{Finish: finish, Times: times})
			finish <- struct{}{}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			soon(t, l.paused, "the pause")
			for range 3 {
				resp, err := s.try(ctx, "POST", chatPath, ask)
				if err != nil {
					t.Fatalf("while the stream is open: %v", err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
					t.Errorf("while the stream is open: %d, %v", resp.StatusCode, err)
				}
				_ = resp.Body.Close()
			}
			if isLastCall {
				close(finish)
				refused(t, s.addr)
			}
			close(goOn)
			if got := collect(t, body.r); got.failure != nil || !got.done {
				t.Errorf("the stream that was open: %+v", got)
			}
			s.finished(t)
			refused(t, s.addr)
		})
	}
}

func TestServeEndsAnswersThatDoNotFinish(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{}, 2)
	script := untilGone("first")
	b := &backend{answer: func(ctx context.Context, r *cluster.Request, emit func(cluster.Chunk) error) error {
		begun <- struct{}{}
		return script(ctx, r, emit)
	}}
	s := start(t, gateway.Options{Backend: b, Times: gateway.Times{Grace: 50 * time.Millisecond}})
	resp := s.ask(t.Context(), t, "POST", chatPath, askMore)
	body := stream(resp.Body)
	if _, err := body.next(); err != nil {
		t.Fatal(err)
	}
	soon(t, begun, "the stream")
	whole := make(chan string, 1)
	go func() {
		resp, err := s.try(context.Background(), "POST", chatPath, ask)
		if err != nil {
			whole <- err.Error()
			return
		}
		all, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		whole <- fmt.Sprint(resp.StatusCode, string(all))
	}()
	soon(t, begun, "the second request")
	s.stop()
	if got := collect(t, body.r); got.failure == nil || *got.failure.Code != "unreachable" || got.done {
		t.Errorf("stream: got %+v", got)
	}
	if got := soon(t, whole, "the whole answer"); !strings.HasPrefix(got, "503") || !strings.Contains(got, `"unreachable"`) {
		t.Errorf("whole: got %s", got)
	}
}

func TestServeFailsWithItsListener(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	g := gateway.New(gateway.Options{Backend: &backend{}, APIKeys: func() ([]string, error) { return []string{key}, nil }})
	if err := g.Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("got %v", err)
	}
}
