package doctor

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
)

// Tool runs a program of the system and returns what it printed.
type Tool func(ctx context.Context, name string, args ...string) (string, error)

// toolTimeout bounds one program; those that are run here answer in milliseconds.
const toolTimeout = 5 * time.Second

// RunTool is the Tool of this machine.
func RunTool(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/bin:/bin:/usr/sbin:/sbin"}
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run %s: %w", name, err)
	}
	return string(out), nil
}

const firewallTool = "/usr/libexec/ApplicationFirewall/socketfilterfw"

// Firewall says whether macOS lets others connect to a program of this machine.
func Firewall(ctx context.Context, run Tool, exe string) []plan.Finding {
	state, err := run(ctx, firewallTool, "--getglobalstate")
	if err != nil {
		return one(skip("cannot ask the firewall: %v", err))
	}
	if strings.Contains(state, "State = 0") || strings.Contains(state, "disabled") {
		return one(ok("off"))
	}
	all, err := run(ctx, firewallTool, "--getblockall")
	if all = strings.ToLower(all); err == nil && strings.Contains(all, "enabled") && !strings.Contains(all, "disabled") {
		return one(fail("sudo "+firewallTool+" --setblockall off", "the firewall blocks all incoming connections: no other Mac reaches the controller"))
	}
	app, err := run(ctx, firewallTool, "--getappblocked", exe)
	if err != nil {
		return one(skip("cannot ask the firewall about %s: %v", exe, err))
	}
	fix := fmt.Sprintf("sudo %s --add %s --unblockapp %s", firewallTool, quote(exe), quote(exe))
	switch app = strings.ToLower(app); {
	case strings.Contains(app, "not part of the firewall"):
		return one(warn(fix, "the firewall is on and does not know mlxctl: macOS may ask, or block it"))
	case strings.Contains(app, "blocked"):
		return one(fail(fix, "the firewall blocks connections to mlxctl: no other Mac reaches the controller"))
	default:
		return one(ok("on, mlxctl is let through"))
	}
}

// wiredLimit says whether a limit of the operator's own leaves macOS what it needs.
func wiredLimit(ctx context.Context, run Tool) []plan.Finding {
	out, err := run(ctx, "/usr/sbin/sysctl", "-n", "iogpu.wired_limit_mb", "hw.memsize")
	fields := strings.Fields(out)
	if err != nil || len(fields) != 2 {
		return one(skip("this macOS does not say what the GPU may wire"))
	}
	limitMB, err1 := strconv.ParseInt(fields[0], 10, 64)
	memory, err2 := strconv.ParseInt(fields[1], 10, 64)
	if err1 != nil || err2 != nil {
		return one(skip("sysctl says %q", strings.Join(fields, " ")))
	}
	const need = 4 * gib // of macOS itself
	switch left := memory - limitMB<<20; {
	case limitMB <= 0:
		return one(ok("macOS decides"))
	case left < need:
		return one(warn(fmt.Sprintf("sudo sysctl iogpu.wired_limit_mb=%d", (memory-need)>>20),
			"iogpu.wired_limit_mb is %d and leaves macOS %.1f GiB", limitMB, float64(left)/gib))
	default:
		return one(ok("%.0f GiB", float64(limitMB<<20)/gib))
	}
}

// power warns of settings that take a Mac away from its users.
func power(ctx context.Context, run Tool) []plan.Finding {
	out, err := run(ctx, "/usr/bin/pmset", "-g")
	if err != nil {
		return one(skip("cannot ask for the power settings: %v", err))
	}
	settings := map[string]string{}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) >= 2 {
			settings[f[0]] = f[1]
		}
	}
	var found []plan.Finding
	if minutes := settings["sleep"]; minutes != "" && minutes != "0" {
		found = append(found, warn("sudo pmset -a sleep 0 womp 1", "this Mac sleeps after %s min without use, and is away then", minutes))
	}
	if settings["lowpowermode"] == "1" || settings["powermode"] == "1" {
		found = append(found, warn("sudo pmset -a lowpowermode 0", "low power mode slows the GPU down"))
	}
	if len(found) == 0 {
		return one(ok("stays awake"))
	}
	return found
}

// quote makes s one word for a shell.
func quote(s string) string {
	plain := func(r rune) bool {
		return (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') || (r >= '0' && r <= '9') || strings.ContainsRune("/._-+@:", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
