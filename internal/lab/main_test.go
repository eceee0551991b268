package lab_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/lab"
)

// abandon has the test binary make a lab and leave it: the value says how.
const abandon = "LAB_TEST_ABANDON"

func TestMain(m *testing.M) {
	if how := os.Getenv(abandon); how != "" {
		leave(how)
	}
	goleak.VerifyTestMain(m)
}

// leave makes a lab, says where it is, and never ends it.
func leave(how string) {
	l, err := lab.Start(context.Background(), lab.Options{Hosts: 1, Standing: how == "standing"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = fmt.Fprintln(os.Stdout, l.Dir(), l.Operator.PID(), l.Hosts[0].PID())
	switch how {
	case "standing":
		os.Exit(0)
	case "panic":
		panic("as a test does")
	default:
		select {}
	}
}

// dial connects to an address from a host, as its user, and says how that went and how long it took.
func dial(t *testing.T, from *lab.Host, addr string, port int, patience time.Duration) (result string, took time.Duration) {
	t.Helper()
	script := `import socket, sys, time, errno
start = time.monotonic()
s = socket.socket()
s.settimeout(float(sys.argv[3]))
try:
    s.connect((sys.argv[1], int(sys.argv[2])))
    result = "connected"
except TimeoutError:
    result = "timeout"
except OSError as e:
    result = errno.errorcode[e.errno]
print(result, int((time.monotonic() - start) * 1e6))`
	out, err := from.Exec(t.Context(), from.User, "python3", "-c", script, addr, fmt.Sprint(port), fmt.Sprint(patience.Seconds()))
	if err != nil {
		t.Fatalf("dial from %s: %v", from.Name, err)
	}
	var micros int64
	if _, err := fmt.Sscan(string(out), &result, &micros); err != nil {
		t.Fatalf("dial from %s says %q", from.Name, out)
	}
	return result, time.Duration(micros) * time.Microsecond
}

// browse asks the network for a service, from a host, and returns the names of those that offer it.
func browse(t *testing.T, from *lab.Host, service string, patience time.Duration) []string {
	t.Helper()
	script := `import socket, struct, sys, time
service, patience, mine = sys.argv[1], float(sys.argv[2]), sys.argv[3]
labels = service.split(".") + ["local"]
name = b"".join(bytes([len(l)]) + l.encode() for l in labels) + b"\0"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(mine))
def skip(b, i):
    while b[i]:
        if b[i] >= 0xc0:
            return i + 2
        i += 1 + b[i]
    return i + 1
found, end, ask = set(), time.monotonic() + patience, 0
while (now := time.monotonic()) < end:
    if now >= ask:
        s.sendto(struct.pack(">6H", 7, 0, 1, 0, 0, 0) + name + struct.pack(">2H", 12, 0x8001), ("224.0.0.251", 5353))
        ask = now + 0.5
    s.settimeout(max(0.01, min(ask, end) - now))
    try:
        b = s.recv(9000)
    except TimeoutError:
        continue
    questions, answers = struct.unpack(">2H", b[4:8])
    i = 12
    for _ in range(questions):
        i = skip(b, i) + 4
    for _ in range(answers):
        i = skip(b, i)
        kind, _, _, size = struct.unpack(">2HIH", b[i:i + 10])
        i += 10
        if kind == 12:
            found.add(b[i + 1:i + 1 + b[i]].decode())
        i += size
print("\n".join(sorted(found)))`
	out, err := from.Exec(t.Context(), from.User, "python3", "-c", script, service, fmt.Sprint(patience.Seconds()), from.IP().String())
	if err != nil {
		t.Fatalf("browse from %s: %v", from.Name, err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		case <-tick.C:
		}
	}
}
