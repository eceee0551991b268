package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestTenThousandRepliesOfOneToken sends them through gateway, controller, bus and agent: none is lost, none hangs.
func TestTenThousandRepliesOfOneToken(t *testing.T) {
	var logs lockedBuffer
	p, err := StartInProcess(context.Background(), enginetest.NewLauncher(enginetest.Script{Reply: replyOne}), slog.New(slog.NewTextHandler(&logs, nil)))
	if err != nil {
		t.Fatalf("%v\n%s", err, logs.String())
	}
	defer func() {
		if err := p.Close(); err != nil || t.Failed() {
			t.Errorf("%v\n%s", err, logs.String())
		}
	}()
	const requests, clients = 10_000, 64
	transport := &http.Transport{MaxIdleConnsPerHost: clients, DialContext: (&net.Dialer{}).DialContext}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute) // it ends what hangs
	defer cancel()
	var next, right atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for next.Add(1) <= requests && ctx.Err() == nil {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.Base+"/v1/chat/completions", strings.NewReader(body("tiny", "Say one.", `,"max_tokens":1`)))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Authorization", "Bearer "+p.Key)
				resp, err := transport.RoundTrip(req)
				if err != nil {
					t.Error(err)
					continue
				}
				data, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				var c completion
				if err != nil || json.Unmarshal(data, &c) != nil || len(c.Choices) != 1 || c.Choices[0].Message.Content != "one" {
					t.Errorf("status %d, %v: %s", resp.StatusCode, err, data)
					continue
				}
				right.Add(1)
			}
		})
	}
	wg.Wait()
	if right.Load() != requests {
		t.Errorf("%d of %d are right", right.Load(), requests)
	}
}

func replyOne(*cluster.Request) []string { return []string{"one"} }
