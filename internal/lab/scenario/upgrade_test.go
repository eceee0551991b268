package scenario_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/lab"
)

// load asks without end, from the operator's host, over the HTTP interface, until its standard input ends: half of it for
// whole answers, each over a connection of its own, half for streams, over connections that are kept. It writes how many
// requests were answered rightly, then a line for each that was not.
const load = `import http.client, json, os, sys, threading, time, urllib.parse
base, key = urllib.parse.urlsplit(os.environ["OPENAI_BASE_URL"]), os.environ["OPENAI_API_KEY"]
stop, good, bad, lock = threading.Event(), 0, [], threading.Lock()
want = ", ".join(str(i) for i in range(1, 21))
def once(c, stream):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Count from 1 to 20."}], "temperature": 0, "max_tokens": 200, "stream": stream}
    c.request("POST", base.path + "/chat/completions", json.dumps(body),
              {"Authorization": "Bearer " + key, "Content-Type": "application/json"})
    r = c.getresponse()
    if r.status != 200:
        return "status %d: %s" % (r.status, r.read())
    if not stream:
        text, end = json.load(r)["choices"][0]["message"]["content"], True
    else:
        text, end = "", False
        for line in r:
            data = line.decode().removeprefix("data: ").strip()
            if data == "[DONE]":
                end = True
            elif data.startswith("{"):
                event = json.loads(data)
                if "error" in event:
                    return "event " + data
                text += "".join(x["delta"].get("content") or "" for x in event["choices"])
    return None if end and text.strip() == want else "answered " + repr(text)
def ask(stream):
    global good
    c = http.client.HTTPConnection(base.hostname, base.port, timeout=120)
    while not stop.is_set():
        began = time.strftime("%X")
        try:
            error = once(c, stream)
        except Exception as e:
            error = repr(e)
        if error or not stream:
            c.close()
        with lock:
            if error:
                bad.append("%s to %s: %s" % (began, time.strftime("%X"), error))
            else:
                good += 1
threads = [threading.Thread(target=ask, args=(i % 2 == 1,)) for i in range(4)]
for t in threads: t.start()
sys.stdin.read()
stop.set()
for t in threads: t.join()
print(good, *bad, sep="\n")`

// Four nodes and the operator's own services get a new version while they are asked without end: no request fails.
func TestUpgradeUnderLoad(t *testing.T) {
	s := newSite(t, 4, nil)
	next, err := build(filepath.Join(t.TempDir(), "mlxctl"), "v0.9.1-lab", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.up(done)
	finish := s.underLoad()
	if err := s.Operator.Put(t.Context(), next, "/usr/local/bin/mlxctl"); err != nil {
		t.Fatal(err)
	}
	s.must(done, "upgrade", "--all", "--yes")
	finish()
	s.version("v0.9.1-lab", append(s.Hosts, s.Operator)...)
	s.serve(s.Hosts...)
	s.whole(s.Hosts...)
}

// A version that does not come up is taken back by itself: the node serves with its old one, those after it are left alone,
// and no request fails.
func TestUpgradeIsTakenBack(t *testing.T) {
	s := newSite(t, 2, nil)
	s.up(done)
	for name, c := range map[string]struct {
		instead map[string]string
		says    string
	}{
		// That it was noticed by its ends is what keeps it from waiting for the time limit.
		"exits at once": {
			map[string]string{"cmd/mlxctl/main.go": agentThat(`_, _ = os.Stderr.WriteString("no such library\n"); os.Exit(1)`)},
			"the agent ended by itself 3 times, and wrote last: no such library",
		},
		"never links":   {map[string]string{"cmd/mlxctl/main.go": agentThat("select {}")}, "did not come up within"},
		"cannot answer": {map[string]string{"mlxbridge/worker/mlxworker/__main__.py": "raise SystemExit(1)\n"}, "self-test"},
	} {
		bad, err := build(filepath.Join(t.TempDir(), "mlxctl"), "v0.9.2-lab", c.instead)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Operator.Put(t.Context(), bad, "/usr/local/bin/mlxctl-bad"); err != nil {
			t.Fatal(err)
		}
		finish := s.underLoad()
		r := s.on(s.Operator, "mlxctl-bad", "upgrade", "--all", "--yes")
		finish()
		t.Logf("%s: %d\n%s\n%s", name, r.code, r.out, r.err)
		if r.code != failed {
			t.Errorf("%s: ended with %d", name, r.code)
		}
		back := 0
		for _, h := range s.Hosts {
			if strings.Contains(r.out+r.err, h.Name+": ") && strings.Contains(r.out+r.err, " is back") {
				back++
			}
		}
		if back == 0 || !strings.Contains(r.out+r.err, c.says) {
			t.Errorf("%s: no node says that it runs what it ran before, because of %q", name, c.says)
		}
		s.version(version, append(s.Hosts, s.Operator)...)
		s.serve(s.Hosts...)
		s.whole(s.Hosts...)
	}
}

// A version of the operator's own services that does not come up is taken back as well; nobody who asks meanwhile is refused.
func TestUpgradeOfServicesIsTakenBack(t *testing.T) {
	s := newSite(t, 1, nil)
	s.up(done)
	bad, err := build(filepath.Join(t.TempDir(), "mlxctl"), "v0.9.3-lab", map[string]string{
		"cmd/mlxctl/main.go": programThat(`len(os.Args) > 1 && os.Args[1] == "controller"`, `_, _ = os.Stderr.WriteString("no such library\n"); os.Exit(1)`),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Operator.Put(t.Context(), bad, "/usr/local/bin/mlxctl-bad"); err != nil {
		t.Fatal(err)
	}
	finish := s.underLoad()
	r := s.on(s.Operator, "mlxctl-bad", "upgrade", "--all", "--yes")
	finish()
	t.Logf("%d\n%s\n%s", r.code, r.out, r.err)
	if r.code != partial || !strings.Contains(r.out+r.err, "and wrote last: no such library; "+version+" is back") {
		t.Errorf("ended with %d", r.code)
	}
	s.version(version, s.Operator)
	s.version("v0.9.3-lab", s.Hosts...)
	s.serve(s.Hosts...)
	s.whole(s.Hosts...)
}

// agentThat is a program whose agent on a node does something else; everything else of it is as it should be.
func agentThat(does string) string {
	return programThat(`len(os.Args) == 2 && os.Args[1] == "agent"`, does)
}

// programThat does something else where a condition is true.
func programThat(isSo, does string) string {
	return `package main

import (
	"os"

	"github.com/mlxctl/mlxctl/cmd"
)

var version, commit string

func main() {
	if ` + isSo + ` {
		` + does + `
	}
	os.Exit(cmd.Main(cmd.Build{Version: version, Commit: commit}))
}
`
}

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
		count, lost, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
		var n int
		if _, err := fmt.Sscan(count, &n); err != nil || n == 0 {
			s.t.Errorf("load says %q", out.String())
		}
		s.t.Logf("%d requests were answered meanwhile", n)
		if lost != "" {
			s.t.Errorf("requests failed:\n%s", lost)
		}
	}
}
