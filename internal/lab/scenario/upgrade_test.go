package scenario_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/lab"
)

// load asks without end, from the operator's host, over the HTTP interface, until its standard input ends. It writes how
// many requests were answered rightly, then a line for each that was not.
const load = `import json, os, sys, threading, urllib.request
base, key = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
stop, good, bad, lock = threading.Event(), 0, [], threading.Lock()
def ask():
    global good
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Count from 1 to 20."}], "temperature": 0, "max_tokens": 200}
    want = ", ".join(str(i) for i in range(1, 21))
    while not stop.is_set():
        try:
            r = urllib.request.Request(base + "/chat/completions", json.dumps(body).encode(),
                                       {"Authorization": "Bearer " + key, "Content-Type": "application/json"})
            text = json.load(urllib.request.urlopen(r, timeout=120))["choices"][0]["message"]["content"].strip()
            error = None if text == want else "answered " + repr(text)
        except Exception as e:
            error = repr(e)
        with lock:
            if error:
                bad.append(error)
            else:
                good += 1
threads = [threading.Thread(target=ask) for _ in range(4)]
for t in threads: t.start()
sys.stdin.read()
stop.set()
for t in threads: t.join()
print(good, *bad, sep="\n")`

// Four nodes get a new version while they are asked without end: no request fails. A version that does not come up
// is taken back by itself.
func TestUpgradeUnderLoad(t *testing.T) {
	s := newSite(t, 4, nil)
	next, err := build(filepath.Join(t.TempDir(), "mlxctl"), "v0.9.1-lab", "")
	if err != nil {
		t.Fatal(err)
	}
	s.up(done)
	finish := s.underLoad()
	if err := s.Operator.Put(t.Context(), next, "/usr/local/bin/mlxctl"); err != nil {
		t.Fatal(err)
	}
	s.must(done, "upgrade", "--all", "--yes", "--keep-controller")
	finish()
	s.version("v0.9.1-lab", s.Hosts...)
	s.serve(s.Hosts...)

	bad, err := build(filepath.Join(t.TempDir(), "mlxctl"), "v0.9.2-lab", stillborn)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Operator.Put(t.Context(), bad, "/usr/local/bin/mlxctl-bad"); err != nil {
		t.Fatal(err)
	}
	if r := s.on(s.Operator, "mlxctl-bad", "upgrade", "--all", "--yes"); r.code == done {
		t.Errorf("an upgrade to what does not come up ended well: %s", r.out)
	}
	s.version("v0.9.1-lab", s.Hosts...)
	s.serve(s.Hosts...)
	s.whole(s.Hosts...)
}

// stillborn is a program whose agent does not come up.
const stillborn = `package main

import (
	"os"

	"github.com/mlxctl/mlxctl/cmd"
)

var version, commit string

func main() {
	if len(os.Args) == 2 && os.Args[1] == "agent" {
		os.Exit(1)
	}
	os.Exit(cmd.Main(cmd.Build{Version: version, Commit: commit}))
}
`

func (s *site) version(want string, hosts ...*lab.Host) {
	s.t.Helper()
	all := s.nodes()
	for _, h := range hosts {
		if n, _ := find(all, h); n.Version != want {
			s.t.Errorf("%s runs %q, want %s", h.Name, n.Version, want)
		}
	}
}

// underLoad has the cluster asked from now on; finish ends that and fails the test for each request that failed.
func (s *site) underLoad() (finish func()) {
	s.t.Helper()
	cmd := s.Operator.Command(s.t.Context(), s.Operator.User, "bash", "-c", `eval "$(mlxctl env)"; exec python3 -c "$1"`, "bash", load)
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		s.t.Helper()
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			s.t.Fatalf("load: %v", err)
		}
		count, failed, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
		var n int
		if _, err := fmt.Sscan(count, &n); err != nil || n == 0 {
			s.t.Errorf("load says %q", out.String())
		}
		s.t.Logf("%d requests were answered meanwhile", n)
		if failed != "" {
			s.t.Errorf("requests failed:\n%s", failed)
		}
	}
}
