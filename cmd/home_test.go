package cmd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/service"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// home is one cluster on this machine, made of real processes and a real model.
type home struct {
	t   *testing.T
	dir string
	env []string
	up  upResult
	// exe is the program; empty means this test's own binary.
	exe string
	// workDir is where commands run; empty means the test's own.
	workDir string
}

// newHome makes an empty home; what runs in it is ended, and looked for, after the test.
func newHome(t *testing.T, env ...string) *home {
	t.Helper()
	h := &home{t: t, dir: t.TempDir()}
	h.env = append(os.Environ(), append([]string{
		asBinary + "=1", "MLXCTL_HOME=" + h.dir, "MLXCTL_CACHE=" + enginetest.CacheDir(t), "HF_HOME=" + filepath.Join(h.dir, "hf"),
		"MLXCTL_HTTP_ADDR=127.0.0.1:0", "MLXCTL_NATS_ADDR=127.0.0.1:0",
	}, env...)...)
	t.Cleanup(h.end)
	return h
}

// running makes a home with a cluster that answers.
func running(t *testing.T, env ...string) *home {
	t.Helper()
	enginetest.Environment(t) // so that a slow install is not in the time of `up`
	h := newHome(t, env...)
	r := h.run("up", "--local", "-o", "json")
	if r.code != 0 {
		t.Fatalf("up: exit %d\n%s%s", r.code, r.err, h.logs())
	}
	if err := json.Unmarshal([]byte(r.out), &h.up); err != nil {
		t.Fatalf("up printed %q: %v", r.out, err)
	}
	return h
}

// command prepares a command line of the program in h.
func (h *home) command(ctx context.Context, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, first(h.exe, exe), args...)
	cmd.Env, cmd.Dir = h.env, h.workDir
	return cmd
}

func (h *home) run(args ...string) result { return h.runWith("", args...) }

func (h *home) runWith(stdin string, args ...string) result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var out, errOut bytes.Buffer
	cmd := h.command(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("mlxctl %s: %v", strings.Join(args, " "), err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// end stops the services and makes sure that nothing of them is left.
func (h *home) end() {
	if h.t.Failed() {
		h.t.Log(h.logs())
	}
	if r := h.run("down"); r.code != 0 {
		h.t.Errorf("down: exit %d\n%s", r.code, r.err)
	}
	if left := h.processes(); len(left) > 0 {
		h.t.Errorf("after down these are left:\n%s", strings.Join(left, "\n"))
	}
	if s, err := service.Read(service.Options{Home: h.dir}); err != nil || s.Running {
		h.t.Errorf("after down: %+v, %v", s, err)
	}
}

// processes lists those that were started in this home.
func (h *home) processes() []string {
	out, err := exec.Command("ps", "axeww", "-o", "pid=,args=").Output()
	if err != nil {
		h.t.Errorf("list processes: %v", err)
	}
	var mine []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "MLXCTL_HOME="+h.dir+" ") {
			mine = append(mine, line[:min(len(line), 120)])
		}
	}
	return mine
}

func (h *home) logs() string {
	var b strings.Builder
	for _, name := range []string{"keeper", "controller", "agent"} {
		data, err := os.ReadFile(service.LogPath(h.dir, name))
		if err == nil {
			fmt.Fprintf(&b, "--- %s\n%s", name, data[max(0, len(data)-4000):])
		}
	}
	return b.String()
}

// snapshot reads the state of the cluster as `top -o json` tells it.
func (h *home) snapshot() *cluster.Snapshot {
	h.t.Helper()
	r := h.run("top", "--once", "-o", "json")
	var s cluster.Snapshot
	if err := json.Unmarshal([]byte(r.out), &s); r.code != 0 || err != nil {
		h.t.Fatalf("top: exit %d, %v\n%s%s", r.code, err, r.out, r.err)
	}
	return &s
}

// replica finds a model in memory; nil where it is not.
func (h *home) replica(model string) *cluster.Replica {
	h.t.Helper()
	for _, n := range h.snapshot().Nodes {
		for i := range n.Replicas {
			if n.Replicas[i].Model == model {
				return &n.Replicas[i]
			}
		}
	}
	return nil
}

// pid finds a service of this home.
func (h *home) pid(name string) int {
	h.t.Helper()
	s, err := service.Read(service.Options{Home: h.dir})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, c := range s.Children {
		if c.Name == name {
			return c.PID
		}
	}
	h.t.Fatalf("no service %s: %+v", name, s)
	return 0
}

// keeper is the process that runs the services; 0 where none lives.
func (h *home) keeper() int {
	h.t.Helper()
	s, err := service.Read(service.Options{Home: h.dir})
	if err != nil {
		h.t.Fatal(err)
	}
	if !s.Running {
		return 0
	}
	return s.Keeper.PID
}

func (h *home) kill(pid int) {
	h.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		h.t.Fatalf("kill %d: %v", pid, err)
	}
}

// await asks until ok says yes.
func (h *home) await(what string, ok func() bool) {
	h.t.Helper()
	const most = 2 * time.Minute // it ends what hangs, and says nothing about how long anything may take
	deadline := time.NewTimer(most)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			h.t.Fatalf("waited %s for: %s\n%s", most, what, h.logs())
		case <-tick.C:
		}
	}
}

// body is a chat completion's.
func body(model, prompt string, more ...string) string {
	text, _ := json.Marshal(prompt)
	return fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":%s}]%s}`, model, text, strings.Join(more, ""))
}

func countTo(n int) string { return "Count from 1 to " + strconv.Itoa(n) + "." }

// post sends a chat completion with the cluster's key.
func (h *home) post(ctx context.Context, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.up.BaseURL+"/chat/completions", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+h.up.APIKey)
	return http.DefaultTransport.RoundTrip(req)
}

// completion is what is read of an answer, whole or in parts.
type completion struct {
	Choices []struct {
		Message struct{ Content string }
		Delta   struct{ Content string }
		Finish  string `json:"finish_reason"`
	}
	Error *struct{ Code, Message, Type string }
}

// streamed is an answer that came as events.
type streamed struct {
	text, finish string
	done         bool
	failure      string // code of the error event
	err          error
}

// stream reads an answer event by event; each is called with the text so far.
func (h *home) stream(ctx context.Context, body string, each func(text string)) streamed {
	resp, err := h.post(ctx, body)
	if err != nil {
		return streamed{err: err}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		data, _ := io.ReadAll(resp.Body)
		return streamed{err: fmt.Errorf("status %d: %s", resp.StatusCode, data)}
	}
	var s streamed
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			s.done = true
			continue
		}
		var c completion
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			s.err = err
			return s
		}
		if c.Error != nil {
			s.failure = c.Error.Code
		}
		for _, choice := range c.Choices {
			s.text += choice.Delta.Content
			s.finish += choice.Finish
		}
		if each != nil {
			each(s.text)
		}
	}
	s.err = lines.Err()
	return s
}
