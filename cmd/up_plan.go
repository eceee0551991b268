package cmd

import (
	"fmt"
	"slices"
	"strings"

	bootplan "github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// What is done with a machine.
const (
	whatInstall = "install"
	whatUpgrade = "upgrade"
	whatRepair  = "repair"
	whatNothing = "nothing"
	whatCannot  = "cannot"
	whatStart   = "start" // the services of this machine
	whatStop    = "stop"
	whatRemove  = "remove"
)

// remoteLogin is the setting that lets SSH in.
const remoteLogin = "switch on System Settings > General > Sharing > Remote Login there"

// planItem is one machine in the plan, as JSON has it.
type planItem struct {
	Name     string         `json:"name"`
	Node     cluster.NodeID `json:"node,omitempty"`
	Address  string         `json:"address,omitempty"`
	Model    string         `json:"model,omitempty"`
	Source   string         `json:"source"`
	HostKey  string         `json:"host_key,omitempty"` // fingerprint
	KeyState string         `json:"host_key_state,omitempty"`
	State    string         `json:"state"`
	What     string         `json:"what"`
	Reason   string         `json:"reason,omitempty"`
	Fix      string         `json:"fix,omitempty"`
	// Warnings are what makes it serve less well than it could.
	Warnings []bootplan.Finding `json:"warnings,omitempty"`

	host *foundHost
	// isSeen says that Bonjour saw it and nobody named it, and that it never let us in: whatever keeps it from serving is
	// nobody's failure.
	isSeen bool
	isAuth bool // it does not let us in
	isSelf bool
	node   *roster.Node

	outcome *outcome // nil where nothing was done
	log     []string // the end of its agent's log, where that did not come up
	done    string   // what is said when it is done well; empty means that it serves
}

// changes says that something would be done.
func (p *planItem) changes() bool {
	return slices.Contains([]string{whatInstall, whatUpgrade, whatRepair, whatStart}, p.What)
}

// isInstall says that the host has an installation before it.
func (p *planItem) isInstall() bool { return p.host != nil && p.changes() }

// needsKey says that the operator has to agree to a host key first.
func (p *planItem) needsKey() bool {
	return p.host != nil && p.host.KeyState == keyNew && p.host.failure() == nil
}

// judge is what is known of the cluster when machines are judged.
type judge struct {
	installer installer
	snapshot  *cluster.Snapshot // nil where the services do not run
	nodes     []roster.Node
	digest    string // of the settings that nodes should have
	knownOnly bool   // new host keys are not agreed to
}

// items judges everything that was found, in the order of the table.
func (j *judge) items(f found) []*planItem {
	var out []*planItem
	for _, h := range f.hosts {
		if h.IsSelf {
			continue // its services are started in any case
		}
		p := j.item(h)
		if p.Model == "" {
			p.Model = f.models[h.Host]
		}
		out = append(out, p)
	}
	for _, m := range f.without {
		p := &planItem{
			Name: m.Name, Model: m.Model, Source: sourceBonjour, KeyState: "off", State: "seen", What: whatCannot,
			Reason: "Remote Login is off", Fix: remoteLogin, isSeen: true,
		}
		if len(m.Addresses) > 0 {
			p.Address = m.Addresses[0].String()
		}
		out = append(out, p)
	}
	for _, n := range j.nodes {
		if !slices.ContainsFunc(out, func(p *planItem) bool { return p.Node == n.ID }) {
			if p := j.unreachable(n); p != nil {
				out = append(out, p)
			}
		}
	}
	return out
}

func (j *judge) item(h *foundHost) *planItem {
	p := &planItem{
		Name: h.label(), Node: h.Node, Address: h.Host, Model: modelText(h), Source: h.Source, HostKey: h.Fingerprint,
		KeyState: h.KeyState, Warnings: h.warnings(), host: h,
	}
	if len(h.Addresses) > 0 {
		p.Address = h.Addresses[0]
	}
	if i := slices.IndexFunc(j.nodes, func(n roster.Node) bool { return n.ID == h.Node && h.Node != "" }); i >= 0 {
		p.node = &j.nodes[i]
		p.Name = p.node.Name
	}
	live := j.live(h.Node)
	switch {
	case live != nil:
		p.State = string(live.State)
	case h.Installed != "":
		p.State = "installed"
	case h.OS != "":
		p.State = "blank"
	default:
		p.State = "-"
	}
	if f := h.failure(); f != nil {
		p.What, p.Reason, p.Fix = whatCannot, f.Message, f.Fix
		p.isAuth = f.Check == checkAuth
		p.isSeen = h.Source == sourceBonjour && h.OS == "" && h.KeyState != keyChanged
		return p
	}
	if p.needsKey() {
		p.What = whatInstall
		if p.node != nil {
			p.What = whatRepair
		}
		if j.knownOnly {
			p.What, p.Reason = whatCannot, "its SSH host key "+h.Fingerprint+" is not known"
			p.Fix = "compare the fingerprint, then leave out --known-hosts-only"
		}
		return p
	}
	want, err := j.installer.Version(h.OS, h.Arch)
	if err != nil {
		e := cluster.AsError(err)
		p.What, p.Reason, p.Fix = whatCannot, e.Message, e.Hint
		return p
	}
	p.What, p.Reason = j.change(h, p.node, live, want)
	return p
}

// Names that the installer gives to findings.
const (
	checkAuth      = "ssh-auth"   // a host does not let us in
	checkReach     = "ssh-reach"  // or does not answer
	checkSSHConfig = "ssh-config" // of this machine
	checkSudo      = "sudo"
	checkLink      = "link" // how the agent there stands with its controller
)

// change is what a host that can be installed needs, and why.
func (j *judge) change(h *foundHost, node *roster.Node, live *cluster.Node, want string) (what, reason string) {
	switch {
	case h.Installed == "":
		return whatInstall, ""
	case node == nil:
		return whatInstall, "has an agent that is not of this cluster's list"
	case h.Installed != want:
		return whatUpgrade, "from " + h.Installed
	case live == nil || (live.State != cluster.NodeReady && live.State != cluster.NodeDraining):
		if live != nil && live.Reason != "" {
			return whatRepair, live.Reason
		}
		return whatRepair, "does not serve"
	case live.Version != versionOf(want):
		return whatRepair, "still runs " + live.Version
	case j.digest != "" && node.Settings != j.digest:
		return whatRepair, "its settings are not these any more"
	}
	return whatNothing, ""
}

// unreachable is a node that is in the list and that SSH cannot reach, as it joined by itself; nil for this machine.
func (j *judge) unreachable(n roster.Node) *planItem {
	if n.By == "local" {
		return nil
	}
	if _, ok := nodeTarget(n); ok {
		return nil // it was not asked for
	}
	p := &planItem{Name: n.Name, Node: n.ID, Source: sourceRoster, KeyState: "-", State: string(cluster.NodeDown), What: whatNothing, node: &n}
	live := j.live(n.ID)
	if live != nil {
		p.State = string(live.State)
	}
	if live == nil || (live.State != cluster.NodeReady && live.State != cluster.NodeDraining) {
		p.What, p.Reason, p.Fix = whatCannot, "is not up, and it joined without SSH", "start its agent there: mlxctl agent join"
	}
	return p
}

func (j *judge) live(id cluster.NodeID) *cluster.Node {
	if j.snapshot == nil || id == "" {
		return nil
	}
	for i := range j.snapshot.Nodes {
		if j.snapshot.Nodes[i].ID == id {
			return &j.snapshot.Nodes[i]
		}
	}
	return nil
}

func modelText(h *foundHost) string {
	switch {
	case h.Chip != "" && h.Model != "":
		return h.Model + " " + h.Chip
	default:
		return h.Model + h.Chip
	}
}

// printPlan shows the table and, below it, what would mend what cannot be.
func printPlan(s *iostreams.IOStreams, items []*planItem) error {
	list := printer.List[*planItem]{
		Name:  func(p *planItem) string { return p.Name },
		Empty: "no other machine was found",
		Columns: []printer.Column[*planItem]{
			{Header: "NAME", Value: func(p *planItem) string { return p.Name }},
			{Header: "ADDRESS", Value: func(p *planItem) string { return p.Address }},
			{Header: "MODEL", Value: func(p *planItem) string { return p.Model }},
			{Header: "SSH", Value: func(p *planItem) string {
				if p.KeyState == keyNew || p.KeyState == keyChanged {
					return p.KeyState + " " + p.HostKey
				}
				return p.KeyState
			}},
			{Header: "STATE", Value: func(p *planItem) string { return p.State }},
			{Header: "WHAT", Value: func(p *planItem) string {
				if p.Reason == "" {
					return p.What
				}
				return p.What + ": " + p.Reason
			}},
		},
	}
	if err := list.Print(s, printer.Options{Format: printer.Table}, items); err != nil {
		return err
	}
	var b strings.Builder
	for _, p := range items {
		if p.What == whatCannot && p.Fix != "" {
			fmt.Fprintf(&b, "%s: %s\n", printer.Clean(p.Name), printer.Clean(p.Fix))
		}
	}
	_, err := s.Out.Write([]byte(b.String()))
	return err
}

// count says how many items are to be changed in each way: "install 3, upgrade 1".
func countPlan(items []*planItem) string {
	var parts []string
	for _, what := range []string{whatStart, whatInstall, whatUpgrade, whatRepair} {
		n := 0
		for _, p := range items {
			if p.What == what {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", what, n))
		}
	}
	return strings.Join(parts, ", ")
}
