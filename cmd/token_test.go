package cmd

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/roster"
	"github.com/mlxctl/mlxctl/internal/trust"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func parsed[T any](t *testing.T, r result) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(r.out), &v); r.code != 0 || err != nil {
		t.Fatalf("exit %d, %v\n%s%s", r.code, err, r.out, r.err)
	}
	return v
}

// at runs a command line in another home of this machine, as another Mac would.
func (h *home) at(dir, stdin string, args ...string) result {
	h.t.Helper()
	other := *h
	other.env = append(append([]string{}, h.env...), "MLXCTL_HOME="+dir)
	return other.runWith(stdin, args...)
}

// Everything about admission with real processes, in one cluster: starting one takes longer than all that is looked at.
func TestJoinByTokenAndKeysOfARunningCluster(t *testing.T) {
	t.Parallel()
	h := running(t, "MLXCTL_NATS_ADDR=0.0.0.0:0")
	k := parsed[tokenResult](t, h.run("token", "create", "-o", "json"))
	if !strings.HasPrefix(k.Token, "mlx1.") || len(k.URLs) == 0 || strings.Contains(strings.Join(k.URLs, " "), "127.0.0.1") {
		t.Errorf("token is %+v", k)
	}
	if left := time.Until(k.ExpiresAt); left > 15*time.Minute || left < 14*time.Minute {
		t.Errorf("it is good for %s", left)
	}
	mac, stranger := t.TempDir(), t.TempDir()
	if err := os.Symlink(enginetest.CacheDir(t), filepath.Join(mac, "cache")); err != nil { // its packages take a minute to fetch
		t.Fatal(err)
	}
	joined := parsed[joinResult](t, h.at(mac, k.Token+"\n", "agent", "join", "-", "--name", "mini", "--unit", "keeper", "-o", "json"))
	t.Cleanup(func() {
		if r := h.at(mac, "", "agent", "leave"); r.code != 0 {
			t.Errorf("leave: exit %d, %s", r.code, r.err)
		}
	})
	if joined.Cluster != h.up.Cluster || joined.Name != "mini" || joined.Home != mac || joined.Node == "" {
		t.Errorf("joined as %+v", joined)
	}
	settings := h.checkNode(t, mac, &joined)
	h.checkLeaving(t, mac, &joined)
	if r := h.at(stranger, "", "agent", "join", k.Token); r.code != exitAuth || !strings.Contains(r.err, "used by another node") {
		t.Errorf("the token again: exit %d, %s", r.code, r.err)
	}
	if _, err := os.Stat(filepath.Join(stranger, "node.json")); err == nil {
		t.Error("a Mac that was refused has settings")
	}
	if r := h.at(h.dir, "", "agent", "join", k.Token); r.code != exitFailed || !strings.Contains(r.err, "controller of its own") {
		t.Errorf("the controller's own home: exit %d, %s", r.code, r.err)
	}
	h.checkTokens(t, &k, &joined)
	h.checkAPIKeys(t)
	h.checkSigning(t, mac, &joined, settings)
}

// checkLeaving has a node that joined answer, and then leave: it is not heard of again.
func (h *home) checkLeaving(t *testing.T, mac string, joined *joinResult) {
	t.Helper()
	h.await("the node that joined is ready", func() bool {
		n := h.node(joined.Node)
		return n != nil && n.State == cluster.NodeReady
	})
	if r := h.run("run", "tiny", "Count from 1 to 5.", "--node", "mini"); r.code != 0 || strings.TrimSpace(r.out) != selfTestAnswer {
		t.Errorf("it answers %q, exit %d, %s", r.out, r.code, r.err)
	}
	if r := parsed[leaveResult](t, h.at(mac, "", "agent", "leave", "-o", "json")); !r.Stopped {
		t.Errorf("left as %+v", r)
	}
	h.await("the node that left is down", func() bool {
		n := h.node(joined.Node)
		return n != nil && n.State == cluster.NodeDown
	})
	if r := h.at(t.TempDir(), "", "agent", "leave"); r.code != exitFailed || !strings.Contains(r.err, "this Mac is no node") {
		t.Errorf("a Mac that is none leaves: exit %d, %s", r.code, r.err)
	}
}

// checkNode looks at what a join wrote, connects with it and returns the settings.
func (h *home) checkNode(t *testing.T, mac string, joined *joinResult) plan.Settings {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(mac, "node.json"))
	var s plan.Settings
	if err != nil || json.Unmarshal(data, &s) != nil {
		t.Fatalf("node.json: %s, %v", data, err)
	}
	if !strings.HasPrefix(s.CA, "-----BEGIN CERTIFICATE") || s.Name != "mini" || s.Cluster != h.up.Cluster || len(s.URLs) == 0 {
		t.Errorf("settings are %+v", s)
	}
	list, err := roster.Open(rosterPath(h.dir)).List()
	if err != nil || len(list) != 1 || list[0].ID != joined.Node || list[0].Name != "mini" || list[0].By != "token" {
		t.Errorf("the roster has %+v, %v", list, err)
	}
	conn, err := bus.Dial(t.Context(), h.nodeOptions(t, mac, s))
	if err != nil {
		t.Fatalf("what came of the join is not believed: %v", err)
	}
	_ = conn.Close()
	return s
}

func (h *home) nodeOptions(t *testing.T, mac string, s plan.Settings) bus.Options {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(s.CA), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := busOptions(s.URLs[0], filepath.Join(mac, "agent", "node.creds"), ca, s.ServerName)
	if err != nil {
		t.Fatal(err)
	}
	o.WaitForConnect = true
	return o
}

func (h *home) checkTokens(t *testing.T, k *tokenResult, joined *joinResult) {
	t.Helper()
	other := parsed[tokenResult](t, h.run("token", "create", "--ttl", "1h", "-o", "json"))
	var states []string
	for _, item := range parsed[struct{ Items []tokenItem }](t, h.run("token", "list", "-o", "json")).Items {
		states = append(states, item.ID+" "+item.State)
		if item.State == "used" && item.Used.Node != joined.Node {
			t.Errorf("used by %+v", item.Used)
		}
	}
	if got, want := strings.Join(states, ","), k.ID+" used,"+other.ID+" good"; got != want {
		t.Errorf("tokens are %q, want %q", got, want)
	}
	for _, id := range []string{k.ID, other.ID} {
		if r := h.run("token", "rm", id); r.code != 0 {
			t.Errorf("rm: exit %d, %s", r.code, r.err)
		}
	}
	if r := h.run("token", "rm", other.ID); r.code != exitNoSuch {
		t.Errorf("rm again: exit %d, %s", r.code, r.err)
	}
	h.await("nobody takes joins any more", func() bool {
		r := h.at(t.TempDir(), "", "agent", "join", other.Token)
		return r.code == exitUnreachable
	})
}

func (h *home) checkAPIKeys(t *testing.T) {
	t.Helper()
	status := func(key string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.up.BaseURL+"/models", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	first := h.up.APIKey
	second := parsed[apiKeyResult](t, h.run("keys", "rotate", "api", "-o", "json"))
	if second.APIKey == first || second.FormerUntil == nil {
		t.Errorf("rotated to %+v", second)
	}
	h.await("the new key counts", func() bool { return status(second.APIKey) == http.StatusOK })
	if got := status(first); got != http.StatusOK {
		t.Errorf("the key before gets status %d in its time of grace", got)
	}
	third := parsed[apiKeyResult](t, h.run("keys", "rotate", "api", "--grace", "0", "-o", "json"))
	h.await("the keys before end", func() bool { return status(second.APIKey) == 401 && status(first) == 401 })
	if got := status(third.APIKey); got != http.StatusOK {
		t.Errorf("the key gets status %d", got)
	}
	h.up.APIKey = third.APIKey
}

func (h *home) checkSigning(t *testing.T, mac string, joined *joinResult, s plan.Settings) {
	t.Helper()
	r := h.run("keys", "rotate", "signing", "-o", "json")
	if r.code != exitPartial || !strings.Contains(r.err, "mini") {
		t.Errorf("a node that does not run: exit %d\n%s%s", r.code, r.out, r.err)
	}
	if r := h.run("run", "tiny", countTo(5)); r.code != 0 {
		t.Errorf("in the middle of it: exit %d\n%s", r.code, r.err)
	}
	if r := h.run("keys", "rotate", "signing", "--force", "-o", "json"); r.code != exitPartial {
		t.Errorf("with force: exit %d\n%s%s", r.code, r.out, r.err)
	}
	if r := h.run("run", "tiny", countTo(5)); r.code != 0 {
		t.Errorf("after it: exit %d\n%s", r.code, r.err)
	}
	if _, err := bus.Dial(t.Context(), h.nodeOptions(t, mac, s)); cluster.CodeOf(err) != cluster.CodeUnauthorized {
		t.Errorf("node %s was let go and is believed: %v", joined.Node, err)
	}
	if r := h.run("keys", "rotate", "nodes", "-o", "json"); r.code != exitPartial {
		t.Errorf("nodes: exit %d\n%s%s", r.code, r.out, r.err)
	}
	h.await("the controller's own node serves with its new key", func() bool {
		r := h.run("run", "tiny", countTo(5))
		return r.code == 0
	})
	if a, err := trust.Open(trustDir(h.dir)); err != nil {
		t.Error(err)
	} else if _, _, err := a.Reload(); err != nil {
		t.Error(err)
	}
}

func TestTokenNeedsAClusterOnTheNetwork(t *testing.T) {
	t.Parallel()
	if r := (invocation{}).run(t, "token", "create"); r.code != exitUnreachable {
		t.Errorf("no cluster: exit %d, %s", r.code, r.err)
	}
	for _, bad := range []string{"", "x", "mlx1.", "mlx1.e30"} {
		if r := (invocation{}).run(t, "agent", "join", bad); r.code != exitUsage || strings.Contains(r.err, "panic") {
			t.Errorf("join %q: exit %d, %s", bad, r.code, r.err)
		}
	}
	if r := (invocation{stdin: strings.Repeat("x", 1<<20)}).run(t, "agent", "join", "-"); r.code != exitUsage {
		t.Errorf("a long text: exit %d, %.200s", r.code, r.err)
	}
}

func TestOnlyAddressesOfTheNetworkAreTold(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]bool{
		"127.0.0.1:1": false, "[::1]:1": false, "localhost:1": false, "0.0.0.0:1": true, "10.0.0.1:1": true, "[::]:1": true, "bad": false,
	} {
		if got := isOnNetwork(addr); got != want {
			t.Errorf("isOnNetwork(%q) is %v", addr, got)
		}
	}
	all, err := networkURLs("tls://", "0.0.0.0:8660")
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range all {
		if strings.Contains(u, "127.0.0.1") || strings.Contains(u, "fe80") || !strings.HasSuffix(u, ":8660") {
			t.Errorf("others are told %s", u)
		}
	}
	if got, err := networkURLs("https://", "10.0.0.1:5"); err != nil || len(got) != 1 || got[0] != "https://10.0.0.1:5" {
		t.Errorf("one address: %v", got)
	}
}
