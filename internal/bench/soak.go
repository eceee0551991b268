package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/service"
)

const (
	soakClients = 6
	// soakEarly is the part of the time after which memory is compared with that at the end: caches are full by then.
	soakEarly = 0.1
	// soakWindow is the part of the time from which each of the two is a median.
	soakWindow = 1.0 / 30
	// soakGrowth is what memory may grow by between them.
	soakGrowth     = 1.05
	soakMostTokens = 200
	soakMostPrompt = 400 // numbers of five tokens
)

// tally counts what the clients of a soak did.
type tally struct {
	answers, cancelled, tokens, failed atomic.Int64
}

// benchSoak has clients ask everything there is of a cluster of real processes, for a long time, and compares the memory
// of worker and agent at the end with that after a tenth of it. It prints a line a minute.
func benchSoak(ctx context.Context, b *bench) error {
	if _, err := b.python(ctx); err != nil {
		return err
	}
	c, err := startCluster(ctx, b.root, append(b.fast(), "MLXCTL_MODELS_PREFIX_BYTES="+b.prefix))
	if err != nil {
		return err
	}
	defer c.stop()
	model := smallModel(b.root)
	if _, err := c.answer(ctx, model, promptsFor(0, 1), answerTokens); err != nil {
		return err
	}
	pids, err := c.processes(ctx)
	if err != nil {
		return err
	}
	var (
		wg    sync.WaitGroup
		count tally
	)
	load, stop := context.WithTimeout(ctx, b.soak)
	for i := range soakClients {
		wg.Go(func() { c.soakClient(load, model, i, &count) })
	}
	memory, err := watch(load, b, pids, &count)
	stop()
	wg.Wait()
	if err != nil {
		return err
	}
	return memory.add(b, &count)
}

// soakClient asks again and again until the time is over: alone, in a conversation, or giving up half-way.
func (c *testCluster) soakClient(ctx context.Context, model string, number int, count *tally) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	draw := rand.New(rand.NewPCG(uint64(number), 1)) //nolint:gosec // a load, not a secret
	for round := 0; ctx.Err() == nil; round++ {
		first := draw.IntN(900)
		messages := []chatMessage{{"user", fmt.Sprintf("Count from %d to %d.", first, first+draw.IntN(soakMostPrompt))}}
		session, turns := "", 1
		switch draw.IntN(4) {
		case 0: // a conversation
			session, turns = fmt.Sprintf("soak-%d-%d", number, round), 1+draw.IntN(4)
		case 1: // a long prompt
			messages[0].Content = "Sort these numbers: " + counted(first, 1+draw.IntN(soakMostPrompt))
		}
		for turn := range turns {
			c.soakAsk(ctx, transport, session, soakRequest(draw, model, messages), draw, count)
			messages = append(messages, chatMessage{"assistant", counted(first, 10*(turn+1))},
				chatMessage{"user", fmt.Sprintf("What is %d + %d?", turn, round%100)})
		}
	}
}

// counted writes so many numbers, as the model does.
func counted(first, n int) string {
	var s strings.Builder
	for i := range n {
		_, _ = fmt.Fprintf(&s, "%d, ", first+i)
	}
	return strings.TrimSuffix(s.String(), ", ")
}

func soakRequest(draw *rand.Rand, model string, messages []chatMessage) map[string]any {
	request := map[string]any{"model": model, "messages": messages, "max_tokens": 1 + draw.IntN(soakMostTokens), "temperature": 0}
	if draw.IntN(2) == 0 {
		request["temperature"], request["top_p"], request["seed"] = 0.1+draw.Float64(), 0.9, draw.IntN(1000)
	}
	return request
}

// soakAsk sends a request and reads its answer, or gives it up after a while.
func (c *testCluster) soakAsk(
	ctx context.Context, transport *http.Transport, session string, request map[string]any, draw *rand.Rand, count *tally,
) {
	asked, cancel := ctx, context.CancelFunc(func() {})
	if draw.IntN(5) == 0 {
		asked, cancel = context.WithTimeout(ctx, time.Duration(draw.IntN(800))*time.Millisecond)
	}
	defer cancel()
	tokens, _, err := c.post(asked, transport, session, request)
	count.tokens.Add(int64(tokens))
	switch {
	case asked.Err() != nil:
		count.cancelled.Add(1)
	case err != nil:
		if count.failed.Add(1) == 1 {
			fmt.Fprintln(os.Stderr, "bench: soak: first failure:", err)
		}
	default:
		count.answers.Add(1)
	}
}

// process is one of those whose memory is watched.
type process struct {
	name string
	pid  int
}

// processes finds the agent and its only worker.
func (c *testCluster) processes(ctx context.Context) ([]process, error) {
	status, err := service.Read(service.Options{Home: c.home})
	if err != nil {
		return nil, fmt.Errorf("find the agent: %w", err)
	}
	out, err := c.command(ctx, "ps", "-o", "json").Output()
	if err != nil {
		return nil, fmt.Errorf("find the worker: %w", err)
	}
	var found struct {
		Items []cluster.Replica `json:"items"`
	}
	if err := json.Unmarshal(out, &found); err != nil {
		return nil, fmt.Errorf("read what ps says: %w", err)
	}
	var pids []process
	for _, r := range found.Items {
		if filepath.Base(r.Model) == filepath.Base(smallModel("")) {
			pids = append(pids, process{"worker", r.WorkerPID})
		}
	}
	for _, child := range status.Children {
		if child.Name == "agent" {
			pids = append(pids, process{"agent", child.PID})
		}
	}
	if len(pids) != 2 {
		return nil, errors.New("there is no agent with one worker")
	}
	return pids, nil
}
