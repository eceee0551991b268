package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/untrusted"
)

const (
	needDisk    = 1 << 30 // for the binary and the Python environment
	skewWarn    = 30 * time.Second
	skewFail    = 24 * time.Hour
	oldestMacOS = 14
)

// Names of the checks, as findings carry them.
const (
	CheckReach    = "ssh-reach"
	CheckConfig   = "ssh-config"
	CheckHostKey  = "host-key"
	CheckAuth     = "ssh-auth"
	CheckFacts    = "facts"
	CheckPlatform = "platform"
	CheckDisk     = "disk"
	CheckClock    = "clock"
	CheckSudo     = "sudo"
	CheckSelf     = "self"
	CheckLink     = "link"
)

// errNoFacts is a host that runs no scripts.
var errNoFacts = errors.New("the host did not answer in full")

// scriptError is a script that failed, and what it said.
type scriptError struct {
	text string
	err  error
}

func (e *scriptError) Error() string { return e.text }
func (e *scriptError) Unwrap() error { return e.err }

// reachability sorts why a connection cannot be had; the lower says more about the host.
type reachability int

const (
	reachRefused reachability = iota
	reachNoRoute
	reachTimeout
	reachNoName
	reachOther
)

func reachOf(err error) reachability {
	var name *net.DNSError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), strings.Contains(err.Error(), "Connection refused"):
		return reachRefused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), strings.Contains(err.Error(), "No route to host"):
		return reachNoRoute
	case errors.As(err, &name):
		return reachNoName
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return reachTimeout
	}
	return reachOther
}

func fail(check, fix, format string, args ...any) plan.Finding {
	return plan.Finding{Check: check, State: plan.FindingFail, Message: untrusted.Line(fmt.Sprintf(format, args...), mostDetail), Fix: fix}
}

// explain says why a host could not be reached or let us not in. A new key is no finding: it waits for the operator.
func (b *Bootstrap) explain(set *settings, err error) []plan.Finding {
	if errors.Is(err, errSelf) {
		return []plan.Finding{selfFinding(set.label)}
	}
	if errors.Is(err, errProxyCommand) {
		return []plan.Finding{fail(CheckConfig, "add --transport openssh", "ssh_config reaches %s by a ProxyCommand, which only ssh itself can run", set.label)}
	}
	if hop, ok := errors.AsType[*hopError](err); ok {
		return []plan.Finding{b.explainHop(set, hop)}
	}
	if _, isNew := errors.AsType[*newKeyError](err); isNew {
		return nil
	}
	if changed, ok := errors.AsType[*changedKeyError](err); ok {
		return []plan.Finding{fail(CheckHostKey, changed.mend(), "%v", changed)}
	}
	if denied, ok := errors.AsType[*sshAuthError](err); ok {
		return []plan.Finding{b.explainAuth(set, denied)}
	}
	if e, ok := errors.AsType[*cluster.Error](err); ok {
		return []plan.Finding{fail(CheckConfig, e.Hint, "%s", e.Message)}
	}
	return []plan.Finding{b.explainReach(set, err)}
}

func (b *Bootstrap) explainHop(set *settings, hop *hopError) plan.Finding {
	name := untrusted.Line(hop.hop, mostName)
	if _, isNew := errors.AsType[*newKeyError](hop.err); isNew {
		return fail(CheckHostKey, "ssh "+word(name)+" true, and compare the fingerprint", "%s is reached through %s: %v", set.label, name, hop.err)
	}
	fix := "ssh " + word(name) + " true must work first"
	if changed, ok := errors.AsType[*changedKeyError](hop.err); ok {
		fix = changed.mend()
	}
	return fail(CheckReach, fix, "%s is reached through %s: %v", set.label, name, hop.err)
}

func (b *Bootstrap) explainAuth(set *settings, e *sshAuthError) plan.Finding {
	fix := "ssh-copy-id"
	if set.port != sshPort {
		fix += " -p " + strconv.Itoa(set.port)
	}
	key := filepath.Join(b.home, ".ssh", "id_ed25519.pub")
	if len(set.identities) > 0 {
		key = set.identities[0] + ".pub"
	}
	if _, err := os.Stat(key); err == nil {
		fix += " -i " + word(key)
	}
	fix += " " + word(e.user+"@"+set.host)
	if strings.Contains(e.offered, "no key") {
		fix = "ssh-keygen -t ed25519 && " + fix
	}
	return fail(CheckAuth, fix, "%s does not let %s in; offered: %s", set.label, e.user, e.offered)
}

func (b *Bootstrap) explainReach(set *settings, err error) plan.Finding {
	where := strings.Join(set.candidates(), ", ")
	switch reachOf(err) {
	case reachRefused:
		return fail(CheckReach, "on that Mac: System Settings > General > Sharing > Remote Login, on; or there: sudo systemsetup -setremotelogin on",
			"%s has no SSH: it refuses %s", set.label, where)
	case reachNoRoute:
		fix := "wake it, or look at the network between: ping " + word(set.host)
		if runtime.GOOS == "darwin" {
			fix = "wake it; or let this terminal dial: System Settings > Privacy & Security > Local Network"
		}
		return fail(CheckReach, fix, "no route to %s at %s", set.label, where)
	case reachTimeout:
		return fail(CheckReach, "wake it and run this again; a firewall in between looks the same",
			"%s does not answer at %s within %v, asked twice: asleep, off, or elsewhere", set.label, where, b.o.Contact)
	case reachNoName:
		name := untrusted.Line(set.host, mostName)
		if strings.HasSuffix(strings.ToLower(name), ".local") {
			return fail(CheckReach, "wake it, let multicast through to it, or name it by its address", "nobody on this network answers to %s: asleep, off, or multicast is filtered", name)
		}
		return fail(CheckReach, "name it by its address, or write HostName into ~/.ssh/config", "no address is known for %s", name)
	case reachOther:
	}
	look := "ssh -v "
	if set.port != sshPort {
		look += "-p " + strconv.Itoa(set.port) + " "
	}
	return fail(CheckReach, "look at it with: "+look+word(set.alias), "%s at %s does not speak SSH with us: %v", set.label, where, err)
}

// asClusterError is explain for who needs an error.
func (b *Bootstrap) asClusterError(set *settings, err error) error {
	if cluster.CodeOf(err) == cluster.CodeCancelled {
		return err
	}
	if e, isNew := errors.AsType[*newKeyError](err); isNew {
		return cluster.Errorf(cluster.CodeUnauthorized, "%v", e).WithHint("agree to it first: run mlxctl up")
	}
	found := b.explain(set, err)[0]
	code := cluster.CodeUnreachable
	if found.Check == CheckAuth || found.Check == CheckHostKey {
		code = cluster.CodeUnauthorized
	}
	return cluster.Errorf(code, "%s", found.Message).WithHint("%s", found.Fix)
}

func selfFinding(label string) plan.Finding {
	return plan.Finding{Check: CheckSelf, State: plan.FindingSkip, Message: label + " is the machine that you are on"}
}

// judge says what of a host's facts keeps it from serving, or from serving well.
func (b *Bootstrap) judge(h *Host) []plan.Finding {
	f := &h.Facts
	if b.o.Hardware != "" && f.Hardware == b.o.Hardware {
		h.Self = true
		return []plan.Finding{selfFinding(h.Label())}
	}
	var out []plan.Finding
	if b.config.skipped != "" && b.o.Transport == TransportLibrary {
		out = append(out, plan.Finding{
			Check: CheckConfig, State: plan.FindingWarn, Message: "parts of " + b.config.skipped + " can only be understood by ssh itself and were left out",
			Fix: "add --transport openssh, if they matter here",
		})
	}
	for _, look := range []func(*Host) *plan.Finding{platform, disk, clock, sudo, reversed} {
		if found := look(h); found != nil {
			out = append(out, *found)
		}
	}
	return out
}

func platform(h *Host) *plan.Finding {
	f := &h.Facts
	major, _ := strconv.Atoi(strings.SplitN(f.OSVersion, ".", 2)[0])
	var found plan.Finding
	switch {
	case f.UserHome == "":
		found = fail(CheckPlatform, "give that user a home folder", "%s has no home folder for %s", h.Label(), f.User)
	case f.OS == "linux" && (f.Arch == "amd64" || f.Arch == "arm64"), f.OS == "darwin" && f.Arch == "arm64" && major >= oldestMacOS:
		return nil
	case f.OS == "darwin" && f.Arch != "arm64":
		found = fail(CheckPlatform, "leave it out: MLX needs Apple silicon", "%s has an Intel processor", h.Label())
	case f.OS == "darwin":
		found = fail(CheckPlatform, "update it: System Settings > General > Software Update", "%s runs macOS %s; mlxctl needs macOS %d or later",
			h.Label(), f.OSVersion, oldestMacOS)
	default:
		found = fail(CheckPlatform, "leave it out", "%s is a %s on %s; mlxctl needs macOS on Apple silicon", h.Label(), f.OS, f.Arch)
	}
	return &found
}

func disk(h *Host) *plan.Finding {
	f := &h.Facts
	if f.DiskFree >= needDisk || f.Installed != "" && f.DiskFree >= needDisk/4 {
		return nil
	}
	found := fail(CheckDisk, fmt.Sprintf("free some there: du -sh %s/* | sort -h", word(f.UserHome)),
		"%s has %s free on %s (%s); mlxctl needs %s", h.Label(), bytesText(f.DiskFree), f.DiskMount, f.UserHome, bytesText(needDisk))
	return &found
}

func clock(h *Host) *plan.Finding {
	f := &h.Facts
	skew := f.Skew.Abs() - f.SkewError
	if skew <= skewWarn {
		return nil
	}
	direction := "ahead of"
	if f.Skew < 0 {
		direction = "behind"
	}
	fix := "there: sudo sntp -sS time.apple.com"
	if f.OS != "darwin" {
		fix = "there: sudo timedatectl set-ntp true"
	}
	found := fail(CheckClock, fix, "the clock of %s is %v %s this one", h.Label(), f.Skew.Abs().Round(time.Second), direction)
	if skew <= skewFail {
		found.State = plan.FindingWarn
	}
	return &found
}

func sudo(h *Host) *plan.Finding {
	f := &h.Facts
	isService := f.Unit == plan.UnitLaunchDaemon || f.Unit == plan.UnitSystemd || f.Unit == plan.UnitRunit
	if f.Sudo == SudoRoot || f.Sudo == SudoPasswordless || isService || f.HasServices {
		return nil
	}
	does := "its agent ends when that machine does, and `mlxctl up` starts it again"
	if f.OS == "darwin" {
		does = "its agent runs from login as " + f.User + ", and the controller dials it"
	}
	fix := fmt.Sprintf("an administrator of that machine has to let %s use sudo; then add --ask-sudo", word(f.User))
	if f.Sudo == SudoPassword {
		fix = "add --ask-sudo"
	}
	return &plan.Finding{
		Check: CheckSudo, State: plan.FindingWarn, Message: fmt.Sprintf("no sudo on %s without a password: %s", h.Label(), does), Fix: fix,
	}
}

// reversed says that the agent which is there may not dial.
func reversed(h *Host) *plan.Finding {
	l := h.Facts.Link
	if h.Facts.Installed == "" || l == nil || (!l.Reverse && l.State != plan.LinkDenied) {
		return nil
	}
	found := Reversed(h.Label())
	return &found
}

// Reversed is the finding that the controller has to dial the agent of a host.
func Reversed(label string) plan.Finding {
	return plan.Finding{
		Check: CheckLink, State: plan.FindingWarn, Message: label + " lets its agent dial nobody on the local network, so the controller dials it",
		Fix: "there: System Settings > Privacy & Security > Local Network: mlxctl on; or sudo, as a system service needs no permission",
	}
}

// OneCause leaves out that the controller dials an agent where the lack of sudo is why.
func OneCause(warnings []plan.Finding) []plan.Finding {
	hasNoSudo := slices.ContainsFunc(warnings, func(f plan.Finding) bool { return f.Check == CheckSudo && strings.Contains(f.Message, "dials it") })
	return slices.DeleteFunc(slices.Clone(warnings), func(f plan.Finding) bool { return hasNoSudo && f.Check == CheckLink })
}
