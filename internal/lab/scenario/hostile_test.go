package scenario_test

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/lab"
)

// A cluster of two hosts, and a third that belongs to nobody, which tries what it can. Each finds the cluster as the one
// before left it.
func TestHostileHost(t *testing.T) {
	s := newSite(t, 3, func(i int, s *lab.Spec) {
		if i == 2 {
			s.NoRemoteLogin = true // so that up does not take it in
		}
	})
	s.up(done) // a Mac without Remote Login is somebody's, and no failure
	hosts, hostile := s.Hosts[:2], s.Hosts[2]
	s.serve(hosts...)
	for _, tries := range []struct {
		what string
		run  func(s *site, hosts []*lab.Host, hostile *lab.Host)
	}{
		{"a stranger hears nothing", strangerHearsNothing},
		{"forged adverts are not believed", forgedAdverts},
		{"a fake controller hears nothing", fakeController},
		{"a stolen node is nobody else", stolenNodeIsNobodyElse},
		{"a join token works once", joinTokenWorksOnce},
		{"a revoked node stays out", revokedNodeStaysOut},
	} {
		t.Run(tries.what, func(t *testing.T) { tries.run(s.as(t), hosts, hostile) })
	}
}

// background runs a program on a host until the test is over, and returns what it says so far.
func (s *site) background(h *lab.Host, user string, argv ...string) func() string {
	s.t.Helper()
	name := "/tmp/said-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	cmd := h.Command(s.t.Context(), user, append([]string{"sh", "-c", `exec "$@" >` + name + ` 2>&1`, "sh"}, argv...)...)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Cancel()
		_ = cmd.Wait()
	})
	return func() string {
		said, _ := h.ReadFile(s.t.Context(), name) // there is none before it speaks
		return string(said)
	}
}

// busy asks a node for a while.
func (s *site) busy(h *lab.Host) {
	s.t.Helper()
	for range 10 {
		s.serve(h)
	}
}

func strangerHearsNothing(s *site, hosts []*lab.Host, hostile *lab.Host) {
	t := s.t
	t.Helper()
	said := s.background(hostile, "root", "python3", "-uc", `import socket, ssl, sys
c = ssl.create_default_context()
c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
s = c.wrap_socket(socket.create_connection((sys.argv[1], 8660), 10))
s.sendall(b'CONNECT {"verbose":true,"pedantic":false}\r\nSUB > 1\r\nPING\r\n')
try:
    while data := s.recv(65536):
        print(data)
except OSError as e:
    print(e)
print("closed")`, s.Operator.IP().String())
	s.busy(hosts[0])
	s.until("the stranger is put out", func() bool { return strings.Contains(said(), "closed") })
	if text := said(); strings.Contains(text, "Count from") || strings.Contains(text, "MSG ") || !strings.Contains(strings.ToLower(text), "authorization violation") {
		t.Errorf("a stranger hears %q", text)
	}
	// The gateway is for this machine alone, unless it was told otherwise.
	if r := s.on(hostile, "bash", "-c", "timeout 5 bash -c ': </dev/tcp/"+s.Operator.IP().String()+"/8640'"); r.code == 0 {
		t.Error("the gateway takes connections from the network")
	}
}

// run starts an agent from a copy of a node's folder.
func (s *site) stolenAgent(h *lab.Host, home string) func() string {
	s.t.Helper()
	return s.background(h, h.User, "env", "MLXCTL_HOME="+home, "MLXCTL_CACHE="+home+"/cache", home+"/current/mlxctl", "agent")
}

func (s *site) link(h *lab.Host, home string) (state, url string) {
	s.t.Helper()
	var link struct {
		State string `json:"state"`
		URL   string `json:"url"`
	}
	data, err := h.ReadFile(s.t.Context(), home+"/run/link.json")
	if err != nil || json.Unmarshal(data, &link) != nil {
		return "", ""
	}
	return link.State, link.URL
}

// steal copies a node's folder, but for what it has in common with others, to another host.
func (s *site) steal(from, to *lab.Host) (home string) {
	s.t.Helper()
	data, err := from.Exec(s.t.Context(), from.User, "tar", "-C", from.Home(), "-cf", "-", ".mlxctl")
	if err != nil {
		s.t.Fatal(err)
	}
	if err := to.WriteFile(s.t.Context(), "loot.tar", data); err != nil {
		s.t.Fatal(err)
	}
	home = to.Home() + "/stolen"
	if r := s.on(to, "sh", "-c", "mkdir stolen && tar -C stolen --strip-components=1 -xf loot.tar && rm -f stolen/run/*"); r.code != 0 {
		s.t.Fatal(r.err)
	}
	return home
}

func revokedNodeStaysOut(s *site, hosts []*lab.Host, _ *lab.Host) {
	t := s.t
	t.Helper()
	gone, stays := hosts[0], hosts[1]
	home := s.steal(gone, gone)
	n, _ := find(s.nodes(), gone)
	s.must(done, "nodes", "rm", n.Name, "--yes")
	s.idle(gone)
	s.stolenAgent(gone, home)
	s.until("it is refused", func() bool { state, _ := s.link(gone, home); return state == "refused" })
	s.busy(stays)
	if n, ok := find(s.nodes(), gone); ok && n.State == "ready" {
		t.Errorf("the node that was removed is %+v", n)
	}
}

func stolenNodeIsNobodyElse(s *site, hosts []*lab.Host, hostile *lab.Host) {
	t := s.t
	t.Helper()
	before := s.nodes()
	victim, other := hosts[0], hosts[1]
	a, _ := find(before, victim)
	b, _ := find(before, other)
	home := s.steal(victim, hostile)
	// With the victim's key it says that it is the other one, and on the other one's hardware.
	id, own := s.on(other, "cat", "/etc/machine-id").out, s.on(hostile, "cat", "/etc/machine-id").out
	t.Cleanup(func() {
		if _, err := hostile.Exec(context.Background(), "root", "sh", "-c", "echo "+own+" >/etc/machine-id; rm -rf "+home); err != nil {
			t.Error(err)
		}
	})
	if _, err := hostile.Exec(t.Context(), "root", "sh", "-c", "echo "+id+" >/etc/machine-id; grep -rlZ "+a.ID+" "+home+"/agent "+home+"/node.json | xargs -0 sed -i s/"+a.ID+"/"+b.ID+"/g"); err != nil {
		t.Fatal(err)
	}
	s.stolenAgent(hostile, home)
	s.busy(other)
	s.serve(victim)
	after := s.nodes()
	if len(after) != len(before) {
		t.Errorf("nodes were %+v, are %+v", before, after)
	}
	if state, _ := s.link(hostile, home); state == "connected" {
		t.Error("it is connected as somebody else")
	}
}

func joinTokenWorksOnce(s *site, _ []*lab.Host, hostile *lab.Host) {
	t := s.t
	t.Helper()
	token := s.must(done, "token", "create").out
	if err := hostile.Put(t.Context(), binary, "/usr/local/bin/mlxctl"); err != nil {
		t.Fatal(err)
	}
	// Somebody who has listened in uses it after the rightful one: it is good for one.
	join := func(home string) result {
		return s.on(hostile, "timeout", "180", "env", "MLXCTL_HOME="+hostile.Home()+"/"+home, "mlxctl", "agent", "join", token)
	}
	if r := join(".mlxctl"); r.code != done {
		t.Fatalf("the rightful one: %d %s", r.code, r.err)
	}
	s.ready(hostile)
	s.serve(hostile)
	if r := join("second"); r.code == done || s.on(hostile, "test", "-e", "second/agent/node.creds").code == 0 {
		t.Errorf("the token was good twice: %d %s %s", r.code, r.out, r.err)
	}
}

// An advert may say anything. Nothing of it moves a terminal's cursor, and none is believed.
func forgedAdverts(s *site, hosts []*lab.Host, hostile *lab.Host) {
	t := s.t
	t.Helper()
	said := s.background(hostile, "root", "python3", "-uc", `import socket, struct, sys
def name(*labels): return b"".join(bytes([len(l)]) + l for l in labels) + b"\0"
ip = socket.inet_aton(sys.argv[1])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, ip)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind(("0.0.0.0", 5353))
evil = b"\x1b]0;owned\x07\x1b[2J\r\nmac1 \xe2\x80\xaeserves"
service, host = (b"_ssh", b"_tcp", b"local"), (b"evil\x1b[31m", b"local")
def rr(n, kind, data): return n + struct.pack(">2HIH", kind, 1, 120, len(data)) + data
packet = struct.pack(">6H", 0, 0x8400, 0, 4, 0, 0) + rr(name(*service), 12, name(evil, *service)) \
    + rr(name(evil, *service), 33, struct.pack(">3H", 0, 0, 22) + name(*host)) + rr(name(evil, *service), 16, b"\x05a=\x1b[m") + rr(name(*host), 1, ip)
import time
while True:
    s.sendto(packet, ("224.0.0.251", 5353))
    print("sent")
    time.sleep(0.2)`, hostile.IP().String())
	s.wait("the forger speaks", func() bool { return strings.Contains(said(), "sent") })
	for _, args := range [][]string{{"up", "--dry-run"}, {"doctor"}, {"up", "--dry-run", "-o", "json"}} {
		r := s.mlxctl(args...)
		if strings.ContainsAny(r.out+r.err, "\x1b\x07\r\u202e") {
			t.Errorf("%q prints what an advert says: %q %q", args, r.out, r.err)
		}
	}
	s.serve(hosts...)
}

// Somebody else's controller at an address that adverts say is ours gets nothing but the beginning of a handshake.
func fakeController(s *site, hosts []*lab.Host, hostile *lab.Host) {
	t := s.t
	t.Helper()
	var settings struct {
		ClusterID string `json:"cluster_id"`
	}
	data, err := hosts[0].ReadFile(t.Context(), ".mlxctl/node.json")
	if err != nil || json.Unmarshal(data, &settings) != nil || settings.ClusterID == "" {
		t.Fatalf("settings of a node: %q, %v", data, err)
	}
	_, err = hostile.Exec(t.Context(), "root", "sh", "-c", `set -eu; cd /root
openssl req -x509 -newkey ed25519 -nodes -keyout key.pem -out cert.pem -days 9 -subj /CN=mlxctl 2>/dev/null
cat >/etc/avahi/services/fake.service <<EOF
<?xml version="1.0"?><service-group><name>mlxctl</name><service><type>_mlxctl._tcp</type><port>8660</port>
<txt-record>v=1</txt-record><txt-record>cid=$1</txt-record><txt-record>ca=0123456789abcdef</txt-record><txt-record>p=8660</txt-record></service></service-group>
EOF`, "sh", settings.ClusterID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := hostile.Exec(context.Background(), "root", "rm", "/etc/avahi/services/fake.service"); err != nil {
			t.Error(err)
		}
	})
	said := s.background(hostile, "root", "python3", "-uc", `import socket, ssl
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
c.load_cert_chain("cert.pem", "key.pem")
l = socket.create_server(("0.0.0.0", 8660))
print("listening")
while True:
    s, peer = l.accept()
    print("dialled by", peer[0])
    try:
        s.settimeout(5)
        s = c.wrap_socket(s, server_side=True)
        s.sendall(b'INFO {"server_id":"fake","version":"2.15.2","max_payload":1048576,"nonce":"bm9uY2U","auth_required":true}\r\n')
        print("HEARD", s.recv(65536))
    except OSError as e:
        print("failed:", e)`)
	// The real one is silent for a while, so that its nodes look for it elsewhere.
	if _, err := s.Operator.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		if _, err := h.Kill("current/mlxctl", "agent"); err != nil {
			t.Fatal(err)
		}
	}
	s.wait("somebody dials the fake", func() bool { return strings.Contains(said(), "dialled by") })
	if err := s.Operator.Thaw(); err != nil {
		t.Fatal(err)
	}
	s.ready(hosts...)
	s.serve(hosts...)
	if text := said(); strings.Contains(text, "jwt") || strings.Contains(text, "sig") {
		t.Errorf("the fake heard %q", text)
	}
	for _, h := range hosts {
		if state, url := s.link(h, h.Home()+"/.mlxctl"); state != "connected" || !strings.Contains(url, s.Operator.IP().String()) {
			t.Errorf("%s is %s to %s", h.Name, state, url)
		}
	}
}
