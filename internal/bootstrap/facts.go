package bootstrap

import (
	"context"
	"encoding/json"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/untrusted"
)

// Sudo says how a user of a host can become root.
type Sudo string

// Ways to become root.
const (
	SudoRoot         Sudo = "root"         // is root
	SudoPasswordless Sudo = "passwordless" // without being asked
	SudoPassword     Sudo = "password"     // with a password
	SudoNone         Sudo = "none"
)

// Facts are what a host says of itself. They are untrusted, but bounded and free of control characters.
type Facts struct {
	OS         string `json:"os,omitempty"`   // as Go names it: darwin, linux
	Arch       string `json:"arch,omitempty"` // as Go names it: arm64, amd64
	OSVersion  string `json:"os_version,omitempty"`
	Model      string `json:"model,omitempty"` // "Mac16,10"
	Chip       string `json:"chip,omitempty"`
	Memory     int64  `json:"memory_bytes,omitempty"`
	User       string `json:"user,omitempty"`
	UID        int    `json:"uid"`
	UserHome   string `json:"user_home,omitempty"`
	Home       string `json:"home,omitempty"` // the node's folder, <user's home>/.mlxctl
	HostName   string `json:"host_name,omitempty"`
	Name       string `json:"name,omitempty"` // as its owner calls it
	DiskFree   int64  `json:"disk_free_bytes,omitempty"`
	DiskMount  string `json:"disk_mount,omitempty"`
	Sudo       Sudo   `json:"sudo,omitempty"`
	Hardware   string `json:"hardware,omitempty"` // hashed as an agent does it
	IsLoggedIn bool   `json:"logged_in,omitempty"`
	// HasServices says that the user can have a service there without sudo, on a system that is not macOS.
	HasServices bool `json:"has_services,omitempty"`
	// Python is the newest Python there that workers can run in, "3.12"; empty where none was seen.
	Python string `json:"python,omitempty"`
	// Installed is the VersionID that <home>/current points to; empty where nothing is installed.
	Installed string        `json:"installed,omitempty"`
	Link      *plan.Link    `json:"link,omitempty"` // what an agent there said last
	Unit      plan.UnitKind `json:"unit,omitempty"` // whose file is there
	// Owner is whose node the host says that it is.
	Owner plan.Owner `json:"owner,omitzero"`
	// Skew is how far the host's clock is ahead of ours; SkewError is how wrong that can be.
	Skew      time.Duration `json:"skew,omitempty"`
	SkewError time.Duration `json:"skew_error,omitempty"`
}

// factsScript prints one fact a line. It begins with the clock, whose answer is compared with ours; it calls no Python on
// macOS' own path, where a stub would open a window.
const factsScript = `LC_ALL=C; PATH="/usr/bin:/bin:/usr/sbin:/sbin:/opt/homebrew/bin:/usr/local/bin:$PATH"; export LC_ALL PATH
p() { printf "@mlx %s %s\n" "$1" "$2"; }
p now "$(date +%s)"
p os "$(uname -s)"
p arch "$(uname -m)"
p user "$(id -un)"
p uid "$(id -u)"
h=${HOME:-$(cd && pwd)}
p home "$h"
p host "$(hostname 2>/dev/null || uname -n)"
df -Pk "$h" 2>/dev/null | awk "END { for (i = 2; i <= NF; i++) if (\$i ~ /%\$/) { print \"@mlx disk\", \$(i - 1); m = \"\"; for (j = i + 1; j <= NF; j++) m = m \" \" \$j; print \"@mlx mount\" m; exit } }"
case $(uname -s) in
Darwin)
  p version "$(sw_vers -productVersion)"
  p model "$(sysctl -n hw.model)"
  p chip "$(sysctl -n machdep.cpu.brand_string)"
  p memory "$(sysctl -n hw.memsize)"
  p name "$(scutil --get ComputerName 2>/dev/null)"
  p hardware "$(ioreg -rd1 -c IOPlatformExpertDevice | awk -F "\"" "/\"IOPlatformUUID\"/ { print \$4 }")"
  launchctl print "gui/$(id -u)" >/dev/null 2>&1 && p gui yes
  ;;
*)
  p version "$(. /etc/os-release 2>/dev/null; echo "$PRETTY_NAME")"
  p chip "$(awk -F ": *" "/^model name/ { print \$2; exit }" /proc/cpuinfo 2>/dev/null)"
  p memkb "$(awk "/^MemTotal:/ { print \$2; exit }" /proc/meminfo 2>/dev/null)"
  p hardware "$(cat /etc/machine-id 2>/dev/null)"
  test -d /run/systemd/system -o -w "${SVDIR:-/etc/service}" && p services yes
  ;;
esac
if test "$(id -u)" = 0; then p sudo root
elif ! command -v sudo >/dev/null 2>&1; then p sudo none
elif sudo -n true >/dev/null 2>&1; then p sudo passwordless
else case " $(id -Gn) " in *" admin "*|*" sudo "*|*" wheel "*) p sudo password ;; *) p sudo none ;; esac
fi
for v in 13 12 11; do
  f=$(command -v "python3.$v") && test "$f" != "/usr/bin/python3.$v" -o "$(uname -s)" != Darwin && { p python "3.$v"; break; }
done
n="$h/.mlxctl"
p installed "$(readlink "$n/current" 2>/dev/null)"
v() { sed -n "s/^ *\"$2\": *\"\([^\"]*\)\".*/\1/p" "$1" 2>/dev/null | head -n 1; }
p node "$(v "$n/agent/node.json" id)"
p cluster "$(v "$n/node.json" cluster)"
p clusterid "$(v "$n/node.json" cluster_id)"
p controller "$(sed -n "s/^.*\"\([a-z]*:\/\/[^\"]*\)\".*/\1/p" "$n/node.json" 2>/dev/null | head -n 1)"
test -f "$n/run/link.json" && p link "$(head -c 4096 "$n/run/link.json" | tr -d "\r\n")"
test -f /Library/LaunchDaemons/ai.mlxctl.agent.plist && p unit launchd-daemon
test -f "$h/Library/LaunchAgents/ai.mlxctl.agent.plist" && p unit launchd-agent
test -f "$h/.config/systemd/user/mlxctl-agent.service" && p unit systemd-user
test -d "${SVDIR:-/etc/service}/mlxctl-agent" && p unit runit
p end ok
`

// factPrefix marks our lines among whatever a login shell says.
const factPrefix = "@mlx "

const (
	mostFactLine = 5 << 10
	mostFacts    = 64 // lines
)

// learn asks a host for its facts.
func learn(ctx context.Context, s session) (Facts, error) {
	before := time.Now()
	out, said, err := s.Run(ctx, factsScript, nil)
	after := time.Now()
	values := factLines(out)
	if values["end"] != "ok" {
		if err == nil {
			err = errNoFacts
		}
		if text := lastLine(said); text != "" && ctx.Err() == nil {
			err = &scriptError{text: text, err: err}
		}
		return Facts{}, err
	}
	f := parseFacts(values)
	if now, err := strconv.ParseInt(values["now"], 10, 40); err == nil {
		middle := before.Add(after.Sub(before) / 2)
		f.Skew = time.Unix(now, 0).Add(time.Second / 2).Sub(middle).Round(time.Millisecond)
		f.SkewError = (after.Sub(before) + time.Second) / 2
	}
	return f, nil
}

// factLines reads the lines that are ours; the first of a name counts.
func factLines(out []byte) map[string]string {
	values := map[string]string{}
	for line := range strings.Lines(string(out)) {
		rest, ok := strings.CutPrefix(line, factPrefix)
		if !ok || len(line) > mostFactLine || len(values) >= mostFacts {
			continue
		}
		name, value, _ := strings.Cut(strings.TrimSpace(rest), " ")
		if _, seen := values[name]; !seen {
			values[name] = strings.TrimSpace(value)
		}
	}
	return values
}

func parseFacts(values map[string]string) Facts {
	text := func(name string) string { return untrusted.Line(values[name], mostName) }
	number := func(name string) int64 {
		n, err := strconv.ParseInt(values[name], 10, 64)
		if err != nil || n < 0 {
			return 0
		}
		return n
	}
	const kilo = 1 << 10
	f := Facts{
		OS: osName(text("os")), Arch: archName(text("arch")), OSVersion: text("version"), Model: text("model"), Chip: text("chip"),
		Memory: max(number("memory"), min(number("memkb"), 1<<40)*kilo), User: text("user"), UID: int(min(number("uid"), 1<<31)), UserHome: folder(values["home"]),
		HostName: text("host"), Name: text("name"), DiskFree: min(number("disk"), 1<<50) * kilo, DiskMount: text("mount"),
		Hardware: hashHardware(values["hardware"]), IsLoggedIn: values["gui"] == "yes", HasServices: values["services"] == "yes",
		Owner: plan.Owner{
			Node: cluster.NodeID(text("node")), Cluster: text("cluster"), ClusterID: text("clusterid"), URL: text("controller"),
		},
	}
	if f.UserHome != "" {
		f.Home = path.Join(f.UserHome, defaultHome)
	}
	if s := Sudo(values["sudo"]); slices.Contains([]Sudo{SudoRoot, SudoPasswordless, SudoPassword}, s) {
		f.Sudo = s
	} else {
		f.Sudo = SudoNone
	}
	if python.MatchString(values["python"]) {
		f.Python = values["python"]
	}
	if version := path.Base(values["installed"]); versionID.MatchString(version) {
		f.Installed = version
	}
	var link plan.Link
	if json.Unmarshal([]byte(values["link"]), &link) == nil {
		f.Link = cleanLink(link)
	}
	switch kind := plan.UnitKind(values["unit"]); kind {
	case plan.UnitLaunchDaemon, plan.UnitLaunchAgent, plan.UnitSystemd, plan.UnitRunit:
		f.Unit = kind
	case plan.UnitKeeper:
	}
	return f
}

var (
	python    = regexp.MustCompile(`^3\.[0-9]{1,2}$`)
	versionID = regexp.MustCompile(`^[0-9A-Za-z_][0-9A-Za-z.+_-]{0,120}$`)
)

// folder accepts an absolute path that needs no cleaning; anything else is no home.
func folder(s string) string {
	if path.IsAbs(s) && s == untrusted.Line(s, mostDetail) {
		return path.Clean(s)
	}
	return ""
}

func osName(s string) string { return strings.ToLower(s) }

func archName(s string) string {
	switch s {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return s
}

// hashHardware is the hash of a number that may be one of a machine.
func hashHardware(id string) string {
	if id == "" || id == "uninitialized" || len(id) > mostName || id != untrusted.Line(id, mostName) || strings.Contains(id, " ") {
		return ""
	}
	return plan.HardwareHash(id)
}
