package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway"
)

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
