package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway"
)

// dial connects as clients do that look at the answer only when all is sent.
func dial(t *testing.T, s *server) *net.TCPConn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		t.Fatalf("it is a %T", conn)
	}
	return tcp
}

func head(length int) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", chatPath, key, length)
}

func answered(t *testing.T, conn net.Conn) (int, string) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestARefusalOfALargeBodyReachesWhoSendsItFirst(t *testing.T) {
	t.Parallel()
	s := start(t, gateway.Options{Backend: &backend{}, MaxBodyBytes: 1000})
	const length = 32 << 20 // more than lies in any buffer on the way
	conn := dial(t, s)
	if _, err := io.WriteString(conn, head(length)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(conn, strings.NewReader(strings.Repeat("x", length)), length); err != nil {
		t.Fatalf("the body was not taken: %v", err)
	}
	if status, body := answered(t, conn); status != 413 || !strings.Contains(body, "1000 bytes") {
		t.Errorf("got %d, %s", status, body)
	}
}

func TestAClientThatClosesItsSideIsToldInWords(t *testing.T) {
	t.Parallel()
	b := &backend{answer: func(ctx context.Context, _ *cluster.Request, _ func(cluster.Chunk) error) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	s := start(t, gateway.Options{Backend: b})
	conn := dial(t, s)
	if _, err := io.WriteString(conn, head(len(ask))+ask); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	status, body := answered(t, conn)
	if status != 499 || strings.Contains(body, "context") || !strings.Contains(body, "closed its side of the connection") {
		t.Errorf("got %d, %s", status, body)
	}
}
