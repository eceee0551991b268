package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/trust"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// fakeEngine runs models without MLX.
type fakeEngine struct{ models mlxbridge.Launcher }

func (fakeEngine) prepare(context.Context, config.Dirs, func(string)) error { return nil }

func (f fakeEngine) launcher(string, string, *slog.Logger) mlxbridge.Launcher { return f.models }

// inProcess runs controller and agent of one home in this process, on a fake engine.
func inProcess(t *testing.T, script enginetest.Script) (base, key string) {
	t.Helper()
	dir := t.TempDir()
	authority, err := trust.Init(trustDir(dir), "scale")
	if err != nil {
		t.Fatal(err)
	}
	if key, err = authority.APIKey(); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"run", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	l, err := plan(&config.Config{Name: "scale", HTTPAddr: "127.0.0.1:0", NATSAddr: "127.0.0.1:0", Models: config.Models{HubDirs: []string{dir}}}, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	var logs lockedBuffer
	home := &daemonHome{
		deps: &deps{build: Build{Version: "v0.0.0-test"}, engine: fakeEngine{enginetest.NewLauncher(script)}},
		home: dir, cache: t.TempDir(), local: l, slog: slog.New(slog.NewTextHandler(&logs, nil)),
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for name, serve := range map[string]func(context.Context, *daemonHome) error{"controller": serveController, "agent": serveAgent} {
		wg.Go(func() {
			if err := serve(ctx, home); err != nil && ctx.Err() == nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	t.Cleanup(func() {
		stop()
		wg.Wait()
		if t.Failed() {
			t.Log(logs.String())
		}
	})
	base = "http://" + l.HTTPAddr
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(20 * time.Second); ; <-tick.C {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/health", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return base, key
			}
		}
		if time.Now().After(limit) {
			t.Fatalf("not ready: %v\n%s", err, logs.String())
		}
	}
}

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
	base, key := inProcess(t, enginetest.Script{Reply: replyOne})
	const requests, clients = 10_000, 64
	transport := &http.Transport{MaxIdleConnsPerHost: clients, DialContext: (&net.Dialer{}).DialContext}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var next, right atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for next.Add(1) <= requests && ctx.Err() == nil {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/chat/completions", strings.NewReader(body("tiny", "Say one.", `,"max_tokens":1`)))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Authorization", "Bearer "+key)
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
