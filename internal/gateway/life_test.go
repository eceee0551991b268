package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
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

func TestConnectionOpenedAheadOfUse(t *testing.T) {
	t.Parallel()
	const header = 500 * time.Millisecond
	dial := func(times gateway.Times) net.Conn {
		s := start(t, gateway.Options{Backend: &backend{}, Times: times})
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		return conn
	}
	ahead := dial(gateway.Times{Header: header})
	passed := time.NewTimer(2 * header)
	defer passed.Stop()
	<-passed.C
	if answer := get(t, ahead); !strings.Contains(answer, "503") {
		t.Errorf("used late: got %q", answer)
	}
	slow := dial(gateway.Times{Header: header})
	if _, err := io.WriteString(slow, "GET /hea"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(slow); err != nil {
		t.Errorf("a head that never ends: %v, want the end of the connection", err)
	}
	silent := dial(gateway.Times{Idle: header})
	if _, err := io.ReadAll(silent); err != nil {
		t.Errorf("never used: %v, want the end of the connection", err)
	}
}

// A deadline of one request must not reach the next one on the same connection.
func TestConnectionIsUsedAgain(t *testing.T) {
	t.Parallel()
	const most = time.Second
	slow := words("a")
	b := &backend{answer: func(ctx context.Context, r *cluster.Request, emit func(cluster.Chunk) error) error {
		timer := time.NewTimer(2 * most)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		return slow(ctx, r, emit)
	}}
	s := start(t, gateway.Options{Backend: b, Times: gateway.Times{Write: most, Body: most, Hold: time.Hour}})
	for range 2 {
		for _, body := range []string{ask, askMore} {
			if resp := s.ask(t.Context(), t, "POST", chatPath, body); resp.StatusCode != 200 || !strings.Contains(read(t, resp), `"a"`) {
				t.Fatalf("got %d", resp.StatusCode)
			}
		}
	}
}

// The same, where the server writes before the answer.
func TestContinueOnAConnectionUsedAgain(t *testing.T) {
	t.Parallel()
	const most = time.Second
	s := start(t, gateway.Options{Backend: &backend{}, Times: gateway.Times{Write: most}})
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if status := get(t, conn); !strings.Contains(status, "503") {
		t.Fatalf("got %q", status)
	}
	passed := time.NewTimer(2 * most)
	defer passed.Stop()
	<-passed.C
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nExpect: 100-continue\r\n"+
		"Content-Length: %d\r\nConnection: close\r\n\r\n%s", chatPath, key, len(ask), ask)
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(all), "HTTP/1.1 100 ") || !strings.Contains(string(all), "HTTP/1.1 200 ") {
		t.Errorf("got %q, %v", all, err)
	}
}

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
	for deadline := time.Now().Add(patience); ; {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr)
		if err != nil {
			break
		}
		_ = c.Close()
		if time.Now().After(deadline) {
			t.Fatal("it goes on accepting connections")
		}
	}
	close(goOn)
	if got := collect(t, body.r); got.failure != nil || !got.done {
		t.Errorf("the stream that was open: %+v", got)
	}
	err := <-s.served
	if s.served <- err; err != nil { // for the end of the test
		t.Errorf("Serve: %v", err)
	}
}

// While a stream outlasts a pause, whoever comes is served. When it is over Serve ends by itself, and at the last call it takes
// nobody any more, stream or no stream.
func TestFinishHoldsNobodyBackForLong(t *testing.T) {
	t.Parallel()
	const pause = 50 * time.Millisecond
	for name, isLastCall := range map[string]bool{"the stream ends": false, "last call": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			finish, goOn := make(chan struct{}, 1), make(chan struct{})
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
			s := start(t, gateway.Options{Backend: b, Finish: finish, Times: gateway.Times{Grace: time.Millisecond, Pause: pause}})
			body := stream(s.ask(t.Context(), t, "POST", chatPath, askMore).Body)
			if _, err := body.next(); err != nil {
				t.Fatal(err)
			}
			finish <- struct{}{}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for began := time.Now(); time.Since(began) < 1500*time.Millisecond; { // a second for who keeps connections, then pauses
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
			err := soon(t, s.served, "the end of Serve")
			if s.served <- err; err != nil { // for the end of the test
				t.Errorf("Serve: %v", err)
			}
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

func TestMostConnections(t *testing.T) {
	t.Parallel()
	s := start(t, gateway.Options{Backend: &backend{}, MaxConnections: 1, Times: gateway.Times{Grace: time.Millisecond}})
	first, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	if status := get(t, first); !strings.Contains(status, "503") {
		t.Fatalf("got %q", status)
	}
	answered := make(chan string, 1)
	go func() {
		second, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", s.addr)
		if err != nil {
			answered <- err.Error()
			return
		}
		defer func() { _ = second.Close() }()
		answered <- get(t, second)
	}()
	select {
	case status := <-answered:
		t.Fatalf("the second connection was served beside the first: %q", status)
	case <-time.After(100 * time.Millisecond):
	}
	_ = first.Close()
	if status := soon(t, answered, "the second connection"); !strings.Contains(status, "503") {
		t.Errorf("got %q", status)
	}
}

// get asks for /health on a connection and returns the answer.
func get(t *testing.T, conn net.Conn) string {
	t.Helper()
	if _, err := io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err.Error()
	}
	answer := make([]byte, 4096)
	n, err := conn.Read(answer)
	if err != nil {
		return err.Error()
	}
	return string(answer[:n])
}

func TestTenThousandOneTokenAnswers(t *testing.T) {
	t.Parallel()
	b := &backend{answer: func(_ context.Context, r *cluster.Request, emit func(cluster.Chunk) error) error {
		c := last(1)
		c.Text = r.Messages[0].Content
		return emit(c)
	}}
	s := start(t, gateway.Options{Backend: b})
	const requests, workers = 10000, 256
	next := make(chan int)
	lost := make(chan error, requests)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range next {
				if err := s.echo(fmt.Sprintf("answer %d", i), i%2 == 0); err != nil {
					lost <- err
				}
			}
		})
	}
	for i := range requests {
		next <- i
	}
	close(next)
	wg.Wait()
	close(lost)
	if n := len(lost); n > 0 {
		t.Errorf("%d of %d lost, the first: %v", n, requests, <-lost)
	}
}

// echo asks for an answer that repeats the question.
func (s *server) echo(question string, streams bool) error {
	body := strings.Replace(ask, "hi", question, 1)
	if streams {
		body = strings.Replace(askMore, "hi", question, 1)
	}
	resp, err := s.try(context.Background(), "POST", chatPath, body)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	isWhole := !streams || strings.HasSuffix(string(all), "data: [DONE]\n\n")
	if resp.StatusCode != 200 || !isWhole || !strings.Contains(string(all), `"content":"`+question+`"`) {
		return fmt.Errorf("%s: got %d, %s", question, resp.StatusCode, all)
	}
	return nil
}
