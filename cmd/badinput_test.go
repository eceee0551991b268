package cmd

import (
	"encoding/binary"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// write makes a file below the home and returns its path.
func (h *home) write(name, content string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// giant makes a model folder whose weights are said to need more memory than any machine has; the file is sparse.
func (h *home) giant() string {
	h.t.Helper()
	const bytes = 1 << 42
	config, err := os.ReadFile(filepath.Join(smallDir(h.t), "config.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	tokenizer, err := os.ReadFile(filepath.Join(smallDir(h.t), "tokenizer.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	dir := filepath.Dir(h.write("giant/config.json", string(config)))
	h.write("giant/tokenizer.json", string(tokenizer))
	header := `{"w":{"dtype":"BF16","shape":[2199023255552],"data_offsets":[0,4398046511104]}}`
	path := h.write("giant/model.safetensors", string(binary.LittleEndian.AppendUint64(nil, uint64(len(header))))+header)
	if err := os.Truncate(path, 8+int64(len(header))+bytes); err != nil {
		h.t.Fatal(err)
	}
	return dir
}

func TestBadInputGetsOneLineAndTheClusterGoesOn(t *testing.T) {
	t.Parallel()
	h := running(t)
	broken := filepath.Dir(h.write("broken/config.json", "{"))
	empty := filepath.Join(h.dir, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		code int
		says []string
	}{
		{"unknown model", []string{"run", "tinny", "x"}, exitNoSuch, []string{"tinny", "tiny"}},
		{"unknown folder", []string{"run", "/no/such/folder", "x"}, exitNoSuch, []string{"/no/such/folder"}},
		{"empty folder", []string{"run", empty, "x"}, exitUsage, []string{h.up.Nodes[0].Name + " cannot load " + empty + ": it has no config.json"}},
		{"broken folder", []string{"load", "-q", broken}, exitUsage, []string{broken, "config.json"}},
		{"too big", []string{"run", h.giant(), "x"}, exitCapacity, []string{"GiB"}},
		{"no tokens", []string{"run", "tiny", "x", "--max-tokens", "0"}, exitUsage, []string{"max"}},
		{"more than a context", []string{"run", "tiny", strings.Repeat("Count from 1 to 9. ", 2000)}, exitUsage, []string{"8192", "hint: shorten the prompt"}},
		{"no prompt", []string{"run", "tiny"}, exitUsage, []string{"prompt"}},
		{"unknown node", []string{"run", "tiny", "x", "--node", "nowhere"}, exitNoSuch, []string{"nowhere"}},
		{"not loaded", []string{"unload", "small"}, exitNoSuch, []string{"small", "mlxctl ps"}},
		{"another name", []string{"up", "--local", "--name", "zzz"}, exitUsage, []string{"this cluster is named", "leave out the name"}},
		{"unknown command", []string{"nods"}, exitUsage, []string{"nods", "nodes"}},
		{"unknown flag", []string{"ps", "--nope"}, exitUsage, []string{"--nope"}},
		{"unknown context", []string{"ps", "--context", "office"}, exitNoSuch, []string{"office"}},
	} {
		r := h.run(c.args...)
		lines := strings.Split(strings.TrimSuffix(r.err, "\n"), "\n")
		if r.code != c.code || r.out != "" || !strings.HasPrefix(r.err, "mlxctl: ") {
			t.Errorf("%s: %+v, want exit %d", c.name, r, c.code)
		}
		if len(lines) > 2 || (len(lines) == 2 && !strings.HasPrefix(lines[1], "hint: ")) {
			t.Errorf("%s: more than a line and a hint:\n%s", c.name, r.err)
		}
		for _, s := range c.says {
			if !strings.Contains(r.err, s) {
				t.Errorf("%s: says nothing of %q: %s", c.name, s, r.err)
			}
		}
	}
	if r := h.run("run", "tiny", countTo(5), "--max-tokens", "100000000"); r.out != "1, 2, 3, 4, 5" {
		t.Errorf("a huge bound: %+v", r)
	}
}

func TestBadRequestsGetTheRightStatus(t *testing.T) {
	t.Parallel()
	h := running(t)
	for _, c := range []struct {
		name, key, body string
		status          int
		says            string
	}{
		{"wrong key", "mlx-wrong", body("tiny", "x"), http.StatusUnauthorized, "mlxctl env"},
		{"no JSON", "", "{", http.StatusBadRequest, "JSON"},
		{"no messages", "", `{"model":"tiny","messages":[]}`, http.StatusBadRequest, "messages"},
		{"no model", "", `{"messages":[{"role":"user","content":"x"}]}`, http.StatusBadRequest, "model"},
		{"no tokens", "", body("tiny", "x", `,"max_tokens":0`), http.StatusBadRequest, "max_tokens"},
		{"temperature of a word", "", body("tiny", "x", `,"temperature":"hot"`), http.StatusBadRequest, "temperature"},
		{"unknown model", "", body("tinny", "x"), http.StatusNotFound, "tinny"},
		{"more than a context", "", body("tiny", strings.Repeat("Count from 1 to 9. ", 2000)), http.StatusBadRequest, "8192"},
		{"more than a message", "", body("tiny", strings.Repeat("x", 9<<20)), http.StatusRequestEntityTooLarge, "limit"},
		{"top_k of the vocabulary", "", body("tiny", countTo(3), `,"top_k":100000,"temperature":1,"max_tokens":3`), http.StatusOK, "content"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.up.BaseURL+"/chat/completions", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		key := c.key
		if key == "" {
			key = h.up.APIKey
		}
		req.Header.Set("Authorization", "Bearer "+key)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		data, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != c.status || !strings.Contains(string(data), c.says) {
			t.Errorf("%s: status %d, want %d and %q: %s", c.name, resp.StatusCode, c.status, c.says, data)
		}
	}
	if r := h.run("run", "tiny", countTo(5)); r.out != "1, 2, 3, 4, 5" {
		t.Errorf("afterwards: %+v", r)
	}
}

func TestSettingsThatCannotBeRight(t *testing.T) {
	t.Parallel()
	taken, _ := occupied(t)
	for _, c := range []struct {
		name, file, env string
		code            int
		says            []string
	}{
		{"malformed", "http_addr: [", "", exitUsage, []string{"config.yaml"}},
		{"unknown key", "log_level: info\nhttp_adr: x\n", "", exitUsage, []string{"config.yaml", "http_adr", "http_addr"}},
		{"wrong value", "deadlines:\n  gap: soon\n", "", exitUsage, []string{"config.yaml", "gap", "soon"}},
		{"unknown variable", "", "MLXCTL_HTTP_ADR=127.0.0.1:1", exitDone, nil},
		{"wrong variable", "", "MLXCTL_HTTP_ADDR=nowhere", exitUsage, []string{"MLXCTL_HTTP_ADDR"}},
		{"port in use", "http_addr: " + taken + "\n", "MLXCTL_HTTP_ADDR=", exitFailed, []string{taken, "in use"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			enginetest.Environment(t)
			env := []string{}
			if c.env != "" {
				env = append(env, c.env)
			}
			h := newHome(t, env...)
			if c.file != "" {
				h.write("config.yaml", c.file)
			}
			r := h.run("up", "--local")
			if r.code != c.code || (c.code != 0 && strings.Count(strings.TrimSpace(lastLines(r.err)), "\n") > 1) {
				t.Errorf("%+v, want exit %d", r, c.code)
			}
			for _, s := range c.says {
				if !strings.Contains(r.err, s) {
					t.Errorf("says nothing of %q: %s", s, r.err)
				}
			}
			if c.file != "" { // so that `down` can read it
				if err := os.Remove(filepath.Join(h.dir, "config.yaml")); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// lastLines is what stands from the error on; progress may come before.
func lastLines(s string) string { return s[max(0, strings.LastIndex(s, "mlxctl: ")):] }

func TestKilledKeeperAndStaleFiles(t *testing.T) {
	t.Parallel()
	h := running(t)
	keeper := h.keeper()
	h.kill(keeper)
	h.await("another keeper", func() bool { pid := h.keeper(); return pid != 0 && pid != keeper })
	h.await("it to answer", func() bool { return h.run("run", "tiny", countTo(4)).out == "1, 2, 3, 4" })

	// Keeper, controller, agent and worker, and none that the keeper before had started.
	h.await("the others to be gone", func() bool { return len(h.processes()) == 4 })

	// All at once, as when the power goes: only files are left, and the pids in them may be a stranger's by now.
	pids := []int{h.keeper(), h.pid("controller"), h.pid("agent")}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	for _, pid := range pids {
		h.kill(pid)
	}
	h.await("everything to be gone, workers too", func() bool { return len(h.processes()) == 0 })
	if r := h.run("ps"); r.code != exitUnreachable {
		t.Errorf("ps when all is gone: %+v", r)
	}
	if r := h.run("up", "--local"); r.code != 0 || !strings.Contains(r.out, "is up") {
		t.Errorf("up over stale files: %+v", r)
	}
	if r := h.run("run", "tiny", countTo(4)); r.out != "1, 2, 3, 4" {
		t.Errorf("run: %+v", r)
	}
}
