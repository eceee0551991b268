package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway"
)

// three asks for as many answers.
func three(fields string) string { return strings.Replace(ask, `}]`, `}],"n":3`+fields, 1) }

func TestEachChoiceIsARequestOfItsOwn(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string]int64{}
	var together sync.WaitGroup
	together.Add(3)
	b := &backend{answer: func(_ context.Context, req *cluster.Request, emit func(cluster.Chunk) error) error {
		mu.Lock()
		seen[string(req.ID)] = *req.Seed
		mu.Unlock()
		together.Done()
		together.Wait() // none waits for another's end
		return errors.Join(emit(cluster.Chunk{Text: fmt.Sprint(*req.Seed)}), emit(last(2)))
	}}
	s := start(t, gateway.Options{Backend: b})
	resp := s.ask(t.Context(), t, "POST", chatPath, three(`,"seed":7`))
	body := read(t, resp)
	id := resp.Header.Get("X-Request-Id")
	for i, text := range []string{"7", "8", "9"} {
		if want := fmt.Sprintf(`{"index":%d,"message":{"role":"assistant","content":%q`, i, text); !strings.Contains(body, want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
	if !strings.Contains(body, `"prompt_tokens":3,"completion_tokens":6,"total_tokens":9`) {
		t.Errorf("usage of %s", body)
	}
	if len(seen) != 3 || seen[id] != 7 || seen[id+"-1"] != 8 || seen[id+"-2"] != 9 {
		t.Errorf("requests of %s: %v", id, seen)
	}
}

func TestChoicesShareAStream(t *testing.T) {
	t.Parallel()
	s := start(t, gateway.Options{Backend: &backend{answer: words("a", "b", "c")}})
	resp := s.ask(t.Context(), t, "POST", chatPath, three(`,"stream":true`))
	body := read(t, resp)
	for i := range 3 {
		at := -1
		for _, part := range []string{`"delta":{"role"`, `"delta":{"content":"a"}`, `"delta":{"content":"b"}`, `"delta":{"content":"c"}`, `"delta":{}`} {
			next := strings.Index(body, fmt.Sprintf(`{"index":%d,%s`, i, part))
			if next <= at {
				t.Errorf("choice %d: %s is missing, or too early: %s", i, part, body)
			}
			at = next
		}
	}
	if strings.Count(body, "[DONE]") != 1 || !strings.HasSuffix(body, "data: [DONE]\n\n") {
		t.Errorf("end of %s", body)
	}
}

func TestAChoiceThatFailsFailsAll(t *testing.T) {
	t.Parallel()
	for _, streams := range []bool{false, true} {
		var ended atomic.Int32
		all := make(chan struct{})
		var begun sync.WaitGroup
		begun.Add(2)
		b := &backend{answer: func(ctx context.Context, req *cluster.Request, emit func(cluster.Chunk) error) error {
			if strings.HasSuffix(string(req.ID), "-1") {
				begun.Wait()
				return cluster.Errorf(cluster.CodeNodeLost, "node a is gone")
			}
			err := emit(cluster.Chunk{Text: "x"})
			begun.Done()
			<-ctx.Done()
			if ended.Add(1) == 2 {
				close(all)
			}
			return errors.Join(err, context.Cause(ctx))
		}}
		s := start(t, gateway.Options{Backend: b})
		resp := s.ask(t.Context(), t, "POST", chatPath, three(fmt.Sprintf(`,"stream":%v`, streams)))
		body := read(t, resp)
		<-all
		if !strings.Contains(body, "node a is gone") || strings.Contains(body, "[DONE]") || !streams && resp.StatusCode != 502 {
			t.Errorf("streams %v: %d, %s", streams, resp.StatusCode, body)
		}
	}
}

func TestAClientThatGoesEndsAllChoices(t *testing.T) {
	t.Parallel()
	b := &backend{answer: untilGone("x"), ended: make(chan error, 3)}
	s := start(t, gateway.Options{Backend: b})
	ctx, cancel := context.WithCancel(t.Context())
	resp := s.ask(ctx, t, "POST", chatPath, three(`,"stream":true`))
	if _, err := io.ReadFull(resp.Body, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	for range 3 {
		if err := <-b.ended; err == nil {
			t.Error("a choice ended without an error")
		}
	}
}
