package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mlxctl/mlxctl/internal/bonjour"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/internal/doctor"
	"github.com/mlxctl/mlxctl/internal/service"
	"github.com/mlxctl/mlxctl/internal/trust"
)

// examination is one look at everything. Checks leave in it what those after them need.
type examination struct {
	*deps
	cfg  *config.Config
	home string

	mu       sync.Mutex
	macs     []bonjour.Mac     // guarded by mu
	scanErr  error             // guarded by mu
	snapshot *cluster.Snapshot // guarded by mu; nil where the controller did not answer
}

// local lists the checks of this Mac, and the two looks around that need nothing else.
func (e *examination) local() []doctor.Check {
	checks := []doctor.Check{{Name: "version", Run: e.checkVersion}}
	if isLocal(e.cfg) {
		checks = append(checks,
			doctor.Check{Name: "home", Run: func(context.Context) []plan.Finding { return doctor.Folder(e.home, false) }},
			doctor.Check{Name: "trust", Run: e.checkTrust},
			doctor.Check{Name: "disk", Run: func(context.Context) []plan.Finding { return doctor.Disk(e.home) }},
		)
		if runtime.GOOS == "darwin" {
			checks = append(checks, doctor.Check{Name: "firewall", Run: func(ctx context.Context) []plan.Finding {
				return doctor.Firewall(ctx, doctor.RunTool, e.exe)
			}})
		}
		checks = append(checks,
			doctor.Check{Name: "controller", Run: e.checkController},
			doctor.Check{Name: "ports", Run: e.checkPorts},
		)
	}
	return append(checks,
		doctor.Check{Name: "bus", Timeout: askTimeout + time.Second, Run: e.checkBus},
		doctor.Check{Name: "local-network", Timeout: 2 * bonjour.DefaultScan, Run: e.lookAround},
	)
}

func (e *examination) checkVersion(context.Context) []plan.Finding {
	mine := e.build.Version
	if !isLocal(e.cfg) {
		return finding(plan.FindingOK, "", mine)
	}
	info, err := e.readInfo(e.home)
	if err == nil && info != nil && info.Version != mine {
		return finding(plan.FindingWarn, "mlxctl up", "this is "+mine+", and the controller runs "+info.Version)
	}
	return finding(plan.FindingOK, "", mine)
}

func (e *examination) checkTrust(context.Context) []plan.Finding {
	dir := trustDir(e.home)
	found := doctor.Folder(dir, true)
	if found[0].State != plan.FindingOK {
		return found
	}
	a, err := trust.Open(dir)
	if err != nil {
		return []plan.Finding{doctor.Failure("", "restore "+dir+" from a backup", err)}
	}
	return finding(plan.FindingOK, "", "cluster "+a.Name()+", id "+a.ClusterID())
}

func (e *examination) checkController(context.Context) []plan.Finding {
	s, err := service.Read(e.services(e.home, "", nil))
	if err != nil {
		return []plan.Finding{doctor.Failure("", "mlxctl up", err)}
	}
	if !s.Running {
		what := "no cluster runs on this machine"
		if s.Desired {
			what = "the services of this machine should run and do not"
		}
		return finding(plan.FindingFail, "mlxctl up", what)
	}
	var said []plan.Finding
	for _, c := range s.Children {
		switch {
		case c.PID == 0:
			why := c.LastExit
			if err := readFailure(e.home, c.Name, time.Time{}); err != nil {
				why = err.Error()
			}
			said = append(said, plan.Finding{State: plan.FindingFail, Message: "the " + c.Name + " does not stay up: " + why, Fix: "mlxctl logs " + c.Name})
		case c.Restarts > 0 && time.Since(c.Since) < 10*time.Minute:
			said = append(said, plan.Finding{State: plan.FindingWarn, Message: "the " + c.Name + " was started again a moment ago: " + c.LastExit, Fix: "mlxctl logs " + c.Name})
		}
	}
	if len(said) > 0 {
		return said
	}
	return finding(plan.FindingOK, "", "controller and agent run")
}

// checkPorts says whether the services are where they should be, or who is in their place.
func (e *examination) checkPorts(ctx context.Context) []plan.Finding {
	l, _, err := readLocal(e.home)
	if err != nil {
		return []plan.Finding{doctor.Failure("", "mlxctl up", err)}
	}
	if l == nil {
		return finding(plan.FindingSkip, "", "the services were never set up")
	}
	info, err := e.readInfo(e.home)
	if err != nil {
		return []plan.Finding{doctor.Failure("", "mlxctl up", err)}
	}
	var out []plan.Finding
	for _, addr := range []string{l.HTTPAddr, l.NATSAddr} {
		if addr == "" {
			continue
		}
		if info == nil {
			out = append(out, freePort(addr)...)
			continue
		}
		conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", reachable(addr))
		if err != nil {
			out = append(out, plan.Finding{State: plan.FindingFail, Message: "nobody answers on " + addr + ": " + err.Error(), Fix: "mlxctl up"})
			continue
		}
		_ = conn.Close() // it was only to be accepted
	}
	if len(out) > 0 {
		return out
	}
	return finding(plan.FindingOK, "", strings.TrimSpace(l.HTTPAddr+" "+l.NATSAddr))
}

// freePort says who has a port that the services will want.
func freePort(addr string) []plan.Finding {
	listener, err := listen(addr)
	if err == nil {
		_ = listener.Close() // it was only to be had
		return nil
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return finding(plan.FindingFail, "mlxctl up --help   # another address", "cannot listen on "+addr+": "+err.Error())
	}
	_, port, _ := net.SplitHostPort(addr)
	return finding(plan.FindingWarn, "lsof -nP -iTCP:"+port+" -sTCP:LISTEN", addr+" is in use by another process; the services will take another port")
}

// checkBus asks the controller for its state, over the path that every command takes.
func (e *examination) checkBus(ctx context.Context) []plan.Finding {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, err := e.connect(ctx, e.cfg)
	if isLocal(e.cfg) && cluster.CodeOf(err) == cluster.CodeUnreachable {
		return finding(plan.FindingSkip, "", err.Error()) // the check of the controller says why
	}
	if err != nil {
		return []plan.Finding{doctor.Failure("", "mlxctl up", err)}
	}
	defer c.Close()
	asked := time.Now()
	s, err := c.Snapshot(ctx)
	answered := time.Now()
	if err != nil {
		return []plan.Finding{doctor.Failure("", "mlxctl logs controller", err)}
	}
	e.mu.Lock()
	e.snapshot = s
	e.mu.Unlock()
	out := finding(plan.FindingOK, "", "the controller of "+s.Cluster+" answers in "+answered.Sub(asked).Round(100*time.Microsecond).String())
	clock := doctor.Clock(s.At, asked.Add(-time.Second), answered) // a state may be as old as that
	if clock.Check = doctor.CheckClock; clock.State != plan.FindingOK {
		clock.Message = "the controller's Mac: " + clock.Message
	}
	return append(out, clock)
}

// lookAround asks the local network who is there, and says whether this Mac may ask.
func (e *examination) lookAround(ctx context.Context) []plan.Finding {
	macs, err := e.around.scan(ctx, bonjour.ScanOptions{Log: e.log()})
	e.mu.Lock()
	e.macs, e.scanErr = macs, err
	e.mu.Unlock()
	if err != nil {
		return []plan.Finding{doctor.Failure("", "", err)}
	}
	return finding(plan.FindingOK, "", "this machine may speak to others")
}

func finding(state plan.FindingKind, fix, message string) []plan.Finding {
	return []plan.Finding{{State: state, Message: message, Fix: fix}}
}

// ownNode is the id of the node that a home's agent is; empty where it never ran.
func ownNode(home string) cluster.NodeID {
	data, err := os.ReadFile(filepath.Join(home, "agent", "node.json"))
	if err != nil {
		return ""
	}
	var id struct {
		ID cluster.NodeID `json:"id"`
	}
	if json.Unmarshal(data, &id) != nil {
		return ""
	}
	return id.ID
}
