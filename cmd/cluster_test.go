package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func smallDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../testdata/models/small")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestStraightLine(t *testing.T) {
	t.Parallel()
	h := running(t)
	want := enginetest.Counted(1, 300)
	if r := h.run("run", "tiny", countTo(300)); r.code != 0 || r.out != want || r.err != "" {
		t.Errorf("run: %+v", r)
	}
	if r := h.runWith("Count from 1\nto 5.", "run", "tiny", "--stats"); r.code != 0 || !strings.HasSuffix(r.err, " on "+h.up.Nodes[0].Name+"\n") {
		t.Errorf("run from stdin: %+v", r)
	}
	if s := h.stream(t.Context(), body("tiny", countTo(300), `,"stream":true`), nil); s.text != want || s.finish != "stop" || !s.done || s.err != nil {
		t.Errorf("streamed: %+v", s)
	}
	resp, err := h.post(t.Context(), body("tiny", countTo(300)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var c completion
	if err := json.NewDecoder(resp.Body).Decode(&c); err != nil || len(c.Choices) != 1 || c.Choices[0].Message.Content != want {
		t.Errorf("in one piece: %+v, %v", c, err)
	}
	if r := h.run("run", smallDir(t), countTo(50)); r.code != 0 || r.out != enginetest.Counted(1, 50) {
		t.Errorf("a folder: %+v", r)
	}
	h.await("both models in memory", func() bool { return h.replica("tiny") != nil && h.replica(smallDir(t)) != nil })
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"ps", "-o", "name"}, "tiny\n"},
		{[]string{"nodes", "-o", "name"}, h.up.Nodes[0].Name + "\n"},
		{[]string{"models", "-o", "name"}, "tiny\n"},
		{[]string{"env", "--shell", "sh"}, "export OPENAI_BASE_URL='" + h.up.BaseURL + "'\nexport OPENAI_API_KEY='" + h.up.APIKey + "'\n"},
		{[]string{"top"}, "tiny"},
		{[]string{"logs", "agent"}, "agent runs"},
	} {
		if r := h.run(c.args...); r.code != 0 || !strings.Contains(r.out, c.want) {
			t.Errorf("%v: %+v, want %q", c.args, r, c.want)
		}
	}
	if r := h.run("unload", smallDir(t)); r.code != 0 {
		t.Errorf("unload: %+v", r)
	}
	h.await("the model to be gone", func() bool { return h.replica(smallDir(t)) == nil })
	if r := h.run("load", "tiny", "--pin"); r.code != 0 {
		t.Errorf("load: %+v", r)
	}
	h.await("the model to be pinned", func() bool { return h.replica("tiny").Pinned })
}

func TestTwoHomesAndASecondUp(t *testing.T) {
	t.Parallel()
	a, b := running(t), running(t)
	if a.up.HTTP == b.up.HTTP || a.up.APIKey == b.up.APIKey {
		t.Errorf("two clusters share something: %+v, %+v", a.up, b.up)
	}
	pid := a.pid("controller")
	r := a.run("up", "--local", "-o", "json")
	var again upResult
	if err := json.Unmarshal([]byte(r.out), &again); err != nil || r.code != 0 || again.Changed || again.APIKey != "" || a.up.APIKey == "" {
		t.Errorf("second up: %+v, %v", r, err)
	}
	for _, step := range []string{"identity", "Python", "starting", "waiting"} {
		if strings.Contains(r.err, step) {
			t.Errorf("second up says %q, and did nothing: %s", step, r.err)
		}
	}
	if got := a.pid("controller"); got != pid {
		t.Errorf("second up replaced the controller: %d, was %d", got, pid)
	}
	if r := a.run("down"); r.code != 0 {
		t.Errorf("down: %+v", r)
	}
	if c, err := net.DialTimeout("tcp", strings.TrimPrefix(a.up.HTTP, "http://"), time.Second); err == nil {
		c.Close()
		t.Error("after down the port is still open")
	}
	if r := a.run("run", "tiny", "hello"); r.code != exitUnreachable || !strings.Contains(r.err, "mlxctl up --local") {
		t.Errorf("run without a cluster: %+v", r)
	}
	if r := b.run("run", "tiny", countTo(3)); r.out != "1, 2, 3" {
		t.Errorf("the other cluster: %+v", r)
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	h := running(t)
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			n := 100 + 5*i
			s := h.stream(t.Context(), body("tiny", countTo(n), `,"stream":true`), nil)
			if s.err != nil || s.text != enginetest.Counted(1, n) || !s.done {
				t.Errorf("count to %d: %+v", n, s)
			}
		})
	}
	wg.Wait()
}

func TestDeathAndReturn(t *testing.T) {
	t.Parallel()
	h := running(t)
	var once sync.Once
	after := func(strike func()) func(string) {
		once = sync.Once{}
		return func(text string) {
			if len(text) > 40 {
				once.Do(strike)
			}
		}
	}
	long := body("tiny", countTo(900), `,"stream":true`)

	first := h.replica("tiny").WorkerPID
	s := h.stream(t.Context(), long, after(func() { h.kill(first) }))
	if s.failure != string(cluster.CodeWorkerCrashed) || s.done || s.err != nil {
		t.Errorf("worker killed: %q, %v", s.failure, s.err)
	}
	if !strings.HasPrefix(enginetest.Counted(1, 900), s.text) {
		t.Errorf("what came before is no true beginning: %q", s.text)
	}
	if r := h.run("run", "tiny", countTo(9)); r.out != enginetest.Counted(1, 9) {
		t.Errorf("after the worker's death: %+v", r)
	}

	agent := h.pid("agent")
	s = h.stream(t.Context(), long, after(func() { h.kill(agent) }))
	if s.failure != string(cluster.CodeNodeLost) || s.done || s.err != nil {
		t.Errorf("agent killed: %q, %v", s.failure, s.err)
	}
	h.await("another agent", func() bool { pid := h.pid("agent"); return pid != 0 && pid != agent })
	if r := h.run("run", "tiny", countTo(9)); r.out != enginetest.Counted(1, 9) {
		t.Errorf("after the agent's death: %+v", r)
	}

	h.await("a worker", func() bool { r := h.replica("tiny"); return r != nil && r.State == cluster.ReplicaReady })
	worker, controller := h.replica("tiny").WorkerPID, h.pid("controller")
	h.kill(controller)
	h.await("another controller", func() bool { pid := h.pid("controller"); return pid != 0 && pid != controller })
	h.await("it to answer", func() bool { return h.run("run", "tiny", countTo(9)).out == enginetest.Counted(1, 9) })
	if got := h.replica("tiny").WorkerPID; got != worker {
		t.Errorf("the model was loaded again: worker %d, was %d", got, worker)
	}
}

func TestClientGone(t *testing.T) {
	t.Parallel()
	h := running(t)
	answered := int64(1) // by `up`
	for name, more := range map[string]string{"streamed": `,"stream":true`, "in one piece": ""} {
		// Heartbeats bring the counters: what was answered before is not to look like this request's answer.
		h.await("what was answered to be counted", func() bool { return h.replica("tiny").Counters.Finished == answered })
		before := h.replica("tiny").Counters
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			resp, err := h.post(ctx, body("tiny", countTo(900), more))
			if err == nil {
				defer resp.Body.Close()
				buf := make([]byte, 64)
				for err == nil {
					_, err = resp.Body.Read(buf)
				}
			}
			gone <- err
		}()
		h.await("the request to run", func() bool { return h.replica("tiny").Running == 1 })
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: client ended with %v", name, err)
		}
		h.await("the row to leave", func() bool { return h.replica("tiny").Counters.Cancelled == before.Cancelled+1 })
		stopped := h.replica("tiny").Counters
		if stopped.Finished != before.Finished || stopped.GeneratedTokens-before.GeneratedTokens > 4000 {
			t.Errorf("%s: %+v then %+v", name, before, stopped)
		}
		if r := h.run("run", "tiny", countTo(3)); r.out != "1, 2, 3" {
			t.Errorf("%s: afterwards %+v", name, r)
		}
		answered++
	}
	if n := len(h.snapshot().Requests); n != 0 {
		t.Errorf("%d requests are left in the controller", n)
	}
}

func TestInterruptedRun(t *testing.T) {
	t.Parallel()
	h := running(t)
	before := h.replica("tiny").Counters.Cancelled
	cmd := h.command(t.Context(), "run", "tiny", countTo(900))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_, _ = out.Read(make([]byte, 1<<20))
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("exit %d, want 130", cmd.ProcessState.ExitCode())
	}
	h.await("the row to leave", func() bool { return h.replica("tiny").Counters.Cancelled == before+1 })
}

func TestHealthNeedsNoKeyAndTheRestDoes(t *testing.T) {
	t.Parallel()
	h := running(t)
	for path, want := range map[string]int{"/health": http.StatusOK, "/v1/models": http.StatusUnauthorized} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.up.HTTP+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s without a key: %d, want %d", path, resp.StatusCode, want)
		}
	}
}
