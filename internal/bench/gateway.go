package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/cmd"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

const (
	gatewayRequests = 2000
	gatewayWarmup   = 200
	// gatewayTokens is the length of the answers from which the cost of one token is taken.
	gatewayTokens = 500
)

// benchGateway measures what gateway, controller, bus and agent add to an engine that answers at once, against an HTTP
// server that writes the same events by itself. Requests of both alternate, one at a time.
func benchGateway(ctx context.Context, b *bench) error {
	p, err := cmd.StartInProcess(ctx, enginetest.NewLauncher(enginetest.Script{Reply: replyTokens}), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer p.Close() //nolint:errcheck // what went wrong shows in the figures' absence
	plain, stopPlain, err := startPlain(ctx)
	if err != nil {
		return err
	}
	defer stopPlain()
	for _, c := range []struct {
		name    string
		tokens  int
		times   int
		perItem bool
	}{{"one token", 1, gatewayRequests, false}, {"a stream", gatewayTokens, gatewayWarmup, true}} {
		ours, theirs, err := alternate(ctx, p.Base, plain, p.Key, c.tokens, c.times)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if c.perItem {
			b.add(figure{
				Name: "gateway_per_token_p50", Unit: "us", Target: 50, AtMost: true,
				Value: (median(ours) - median(theirs)) * 1e6 / gatewayTokens,
			})
			continue
		}
		for _, q := range []struct {
			name   string
			at     float64
			target float64
		}{{"p50", 0.5, 2}, {"p99", 0.99, 10}} {
			b.add(figure{
				Name: "gateway_overhead_" + q.name, Unit: "ms", Target: q.target, AtMost: true,
				Value: (quantile(ours, q.at) - quantile(theirs, q.at)) * 1e3,
			})
		}
	}
	return nil
}

// replyTokens answers "Say N." with N tokens.
func replyTokens(req *cluster.Request) []string {
	n := 1
	if _, err := fmt.Sscanf(req.Messages[0].Content, "Say %d.", &n); err != nil {
		n = 1
	}
	tokens := make([]string, n)
	for i := range tokens {
		tokens[i] = " word"
	}
	return tokens
}

func say(tokens int) string {
	return fmt.Sprintf(`{"model":"tiny","stream":true,"messages":[{"role":"user","content":"Say %d."}]}`, tokens)
}

// alternate sends a request to each in turn and returns the seconds that each answer took.
func alternate(ctx context.Context, a, b, key string, tokens, times int) (inA, inB []float64, err error) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for i := range times + gatewayWarmup {
		for _, to := range []struct {
			base string
			into *[]float64
		}{{a, &inA}, {b, &inB}} {
			began := time.Now()
			if err := timed(ctx, transport, to.base, key, tokens); err != nil {
				return nil, nil, err
			}
			if i >= gatewayWarmup {
				*to.into = append(*to.into, time.Since(began).Seconds())
			}
		}
	}
	return inA, inB, nil
}

// timed sends one request and reads its answer to the end.
func timed(ctx context.Context, transport *http.Transport, base, key string, tokens int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/chat/completions", strings.NewReader(say(tokens)))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	lines, done := bufio.NewScanner(resp.Body), false
	for lines.Scan() {
		done = done || lines.Text() == "data: [DONE]"
	}
	if !done {
		return fmt.Errorf("the answer ended with status %d and without its last event: %w", resp.StatusCode, lines.Err())
	}
	return nil
}

// startPlain runs an HTTP server that does nothing but write events.
func startPlain(ctx context.Context) (base string, stop func(), err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(writePlain)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with Close
	}()
	return "http://" + l.Addr().String(), func() { _ = server.Close(); <-done }, nil
}

func writePlain(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	n := 1
	if i := strings.Index(string(body), "Say "); i >= 0 {
		_, _ = fmt.Sscanf(string(body[i:]), "Say %d.", &n)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	for range n {
		_, _ = io.WriteString(w, `data: {"id":"chatcmpl-AAAAAAAAAAAAAAAA","object":"chat.completion.chunk","created":1795542092,"model":"tiny",`+
			`"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}`+"\n\n")
		_ = flush.Flush()
	}
	_, _ = io.WriteString(w, "data: [DONE]\n\n")
}
