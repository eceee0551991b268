package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// answerTokens is the length of the answers that are timed: long enough that decoding outweighs the prompt.
const answerTokens = 100

// streamsAtOnce are the loads that are compared; below eight, speed is the model's alone.
func streamsAtOnce() []int { return []int{1, 8, 32} }

// benchPath compares the whole path, HTTP to worker and back, with mlx-lm's batch_generate. Both answer the same prompts
// with as many tokens, one after the other, again and again; the figures are medians of the ratios.
func benchPath(ctx context.Context, b *bench) error {
	model := smallModel(b.root)
	yardstick, err := b.startBare(ctx, model)
	if err != nil {
		return err
	}
	defer yardstick.close()
	c, err := startCluster(ctx, b.root, b.fast())
	if err != nil {
		return err
	}
	defer c.stop()
	for _, n := range append([]int{1}, streamsAtOnce()...) { // the first round is for warming up
		if _, err := c.answer(ctx, model, promptsFor(0, n), answerTokens); err != nil {
			return err
		}
	}
	for _, n := range streamsAtOnce() {
		if err := b.comparePath(ctx, c, yardstick, model, n); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) comparePath(ctx context.Context, c *testCluster, yardstick *bare, model string, n int) error {
	var ratios, absolute, firsts []float64
	for round := range b.rounds {
		prompts := promptsFor(round+1, n)
		ours, err := c.answer(ctx, model, prompts, answerTokens)
		if err != nil {
			return err
		}
		theirs, err := yardstick.measure(prompts, answerTokens)
		if err != nil {
			return err
		}
		ratios = append(ratios, (ours.tokens/ours.seconds)/(theirs.Tokens/theirs.Seconds))
		absolute = append(absolute, ours.tokens/ours.seconds)
		firsts = append(firsts, ours.first/theirs.FirstSeconds)
	}
	target := 0.9
	if n == 1 {
		target = 0
	}
	for _, f := range []figure{
		{Name: "tokens_per_bare", Value: median(ratios), Unit: "ratio", Target: target},
		{Name: "tokens", Value: median(absolute), Unit: "tok/s"},
		{Name: "first_per_bare", Value: median(firsts), Unit: "ratio"},
	} {
		f.Name, f.BLAS = fmt.Sprintf("path_small_%d_%s", n, f.Name), b.blas
		b.add(f)
	}
	return nil
}

// promptsFor makes prompts that no other round has: what was answered before would be in the prefix store.
func promptsFor(round, n int) []string {
	var prompts []string
	for i := range n {
		prompts = append(prompts, fmt.Sprintf("Count from %d to %d.", 100*round+i+1, 100*round+i+400))
	}
	return prompts
}

// testCluster is a cluster of its own, made with the binary that users get.
type testCluster struct {
	home, binary, base, key string
	env                     []string
}

func startCluster(ctx context.Context, root string, env []string) (*testCluster, error) {
	home, err := os.MkdirTemp("", "mlxctl-bench-")
	if err != nil {
		return nil, fmt.Errorf("make home: %w", err)
	}
	c := &testCluster{home: home, binary: filepath.Join(root, "bin", "mlxctl"), env: env}
	cmd := c.command(ctx, "up", "--local", "-o", "json", "-q")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	var up struct {
		BaseURL string `json:"base_url"`
		APIKey  string `json:"api_key"`
	}
	if err := json.Unmarshal(out, &up); err != nil {
		c.stop()
		return nil, fmt.Errorf("read what up says: %w", err)
	}
	c.base, c.key = up.BaseURL, up.APIKey
	return c, nil
}

func (c *testCluster) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.binary, args...)
	cmd.Env = append(os.Environ(), "MLXCTL_HOME="+c.home, "MLXCTL_HTTP_ADDR=127.0.0.1:0", "MLXCTL_NATS_ADDR=127.0.0.1:0")
	cmd.Env = append(cmd.Env, c.env...)
	return cmd
}

// stop leaves nothing behind.
func (c *testCluster) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.command(ctx, "down", "-q").Run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: stop cluster:", err)
	}
	_ = os.RemoveAll(c.home)
}

// answered is one load, answered.
type answered struct{ tokens, seconds, first float64 }

// answer sends all prompts at once, each on a connection of its own, and waits for the last. first is the median of the
// times to the first token.
func (c *testCluster) answer(ctx context.Context, model string, prompts []string, maxTokens int) (answered, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: len(prompts)}
	defer transport.CloseIdleConnections()
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		total  answered
		firsts []float64
		failed error
	)
	began := time.Now()
	for _, p := range prompts {
		wg.Go(func() {
			tokens, first, err := c.stream(ctx, transport, model, p, maxTokens)
			mu.Lock()
			defer mu.Unlock()
			total.tokens += float64(tokens)
			firsts = append(firsts, first.Sub(began).Seconds())
			failed = errors.Join(failed, err)
		})
	}
	wg.Wait()
	total.seconds = time.Since(began).Seconds()
	if failed != nil {
		return answered{}, failed
	}
	total.first = median(firsts)
	return total, nil
}

// stream reads one answer and returns its length and when its first text came.
func (c *testCluster) stream(ctx context.Context, transport *http.Transport, model, prompt string, maxTokens int) (int, time.Time, error) {
	return c.post(ctx, transport, "", map[string]any{
		"model": model, "max_tokens": maxTokens, "temperature": 0, "messages": []chatMessage{{"user", prompt}},
	})
}

// chatMessage is one message of a conversation.
type chatMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// post sends a chat request, of a session where it has one, and reads the answer's stream as stream does.
func (c *testCluster) post(ctx context.Context, transport *http.Transport, session string, request map[string]any) (int, time.Time, error) {
	var first time.Time
	request["stream"], request["stream_options"] = true, map[string]bool{"include_usage": true}
	body, err := json.Marshal(request)
	if err != nil {
		return 0, first, fmt.Errorf("encode request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/chat/completions", bytes.NewReader(body))
	if err != nil {
		return 0, first, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	if session != "" {
		req.Header.Set("X-Session-Id", session)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, first, fmt.Errorf("send request: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	var usage struct {
		Usage *struct {
			Tokens int `json:"completion_tokens"`
		}
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line := lines.Text()
		if first.IsZero() && strings.Contains(line, `"content":"`) && !strings.Contains(line, `"content":""`) {
			first = time.Now()
		}
		if strings.Contains(line, `"completion_tokens"`) {
			if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &usage); err != nil {
				return 0, first, fmt.Errorf("read usage: %w", err)
			}
		}
	}
	if usage.Usage == nil {
		return 0, first, fmt.Errorf("the answer ended with status %d and without its usage: %w", resp.StatusCode, lines.Err())
	}
	return usage.Usage.Tokens, first, nil
}
