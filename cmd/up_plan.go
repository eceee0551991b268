package cmd

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/bootstrap/sighting"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/iostreams"
	"github.com/mlxctl/mlxctl/internal/printer"
	"github.com/mlxctl/mlxctl/internal/roster"
)

// What is done with a machine.
const (
	whatInstall = "install"
	whatUpgrade = "upgrade"
	// whatDowngrade has a host run a version that is older than its own.
	whatDowngrade = "downgrade"
	whatRepair    = "repair"
	whatNothing   = "nothing"
	whatCannot    = "cannot"
	// whatTakeOver is an installation on a node of another cluster.
	whatTakeOver = "take over"
	whatStart    = "start" // the services of this machine
	whatStop     = "stop"
	whatRemove   = "remove"
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
	Warnings []plan.Finding `json:"warnings,omitempty"`

	host *bootstrap.Host
	// isSeen says that Bonjour saw it and nobody named it, and that it never let us in: whatever keeps it from serving is
	// nobody's failure.
	isSeen bool
	isAuth bool // it does not let us in
	isSelf bool
	// isApart says that it joined without SSH, so that other machines are changed without it.
	isApart bool
	// isCopied says that something was copied to it.
	isCopied bool
	node     *roster.Node

	outcome *outcome // nil where nothing was done
	log     []string // the end of its agent's log, where that did not come up
	undone  undone
	done    string // what is said when it is done well; empty means that it serves
	left    string // why the host was left as it is; empty where it was not
}

// undone is what a host said of an installation that failed.
type undone struct {
	isTouched bool   // it began to replace what ran there
	now       string // what is there again; empty where it did not say so
}

// changes says that something would be done.
func (p *planItem) changes() bool {
	return slices.Contains([]string{whatInstall, whatUpgrade, whatDowngrade, whatRepair, whatTakeOver, whatStart}, p.What)
}

// isInstall says that the host has an installation before it.
func (p *planItem) isInstall() bool { return p.host != nil && p.changes() }

// needsKey says that the operator has to agree to a host key first.
func (p *planItem) needsKey() bool {
	return p.host != nil && p.host.Key.State == bootstrap.KeyNew && p.host.Failure() == nil
}

// judge is what is known of the cluster when machines are judged.
type judge struct {
	binary    func(os, arch string) (path, versionID string, err error)
	snapshot  *cluster.Snapshot // nil where the services do not run
	nodes     []roster.Node
	digest    string // of the settings that nodes should have
	knownOnly bool   // new host keys are not agreed to
	isNamed   bool   // hosts were named: what keeps others from serving is not asked for
	clusterID string // of this cluster; noCluster before it is made
	// mayTakeOver says that hosts which were named may be taken from another cluster; canAsk, that somebody is asked about it.
	mayTakeOver, canAsk bool
}

// items judges everything that was found, in the order of the table.
func (j *judge) items(f sighting.Found) []*planItem {
	var out []*planItem
	for _, h := range f.Hosts {
		if h.Self {
			continue // its services are started in any case
		}
		out = append(out, j.item(h))
	}
	for _, m := range f.Without {
		p := &planItem{
			Name: m.Name, Model: m.Model, Source: bootstrap.SourceBonjour, KeyState: "off", State: "seen", What: whatCannot,
			Reason: "Remote Login is off", Fix: remoteLogin, isSeen: true,
		}
		if len(m.Addrs) > 0 {
			p.Address = m.Addrs[0].String()
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
	if j.isNamed {
		out = slices.DeleteFunc(out, func(p *planItem) bool {
			return p.What == whatCannot && (p.host == nil || !p.host.From(bootstrap.SourceCommandLine))
		})
	}
	return out
}

func (j *judge) item(h *bootstrap.Host) *planItem {
	p := &planItem{
		Name: h.Label(), Node: h.Node, Address: h.Host, Model: modelText(h), Source: h.Source, HostKey: h.Key.Fingerprint,
		KeyState: string(h.Key.State), Warnings: h.Warnings(), host: h,
	}
	if len(h.Addresses) > 0 {
		p.Address = h.Addresses[0]
	}
	j.find(p)
	live := j.live(p.Node)
	switch {
	case live != nil:
		p.State = string(live.State)
	case h.Facts.Installed != "":
		p.State = "installed"
	case h.Facts.OS != "":
		p.State = "blank"
	default:
		p.State = "-"
	}
	if f := h.Failure(); f != nil {
		p.What, p.Reason, p.Fix = whatCannot, f.Message, f.Fix
		p.isAuth = f.Check == bootstrap.CheckAuth
		p.isSeen = h.Source == bootstrap.SourceBonjour && h.Facts.OS == "" && h.Key.State != bootstrap.KeyChanged
		return p
	}
	if p.needsKey() {
		p.What = whatInstall
		if p.node != nil {
			p.What = whatRepair
		}
		if j.knownOnly {
			p.What, p.Reason = whatCannot, "its SSH host key "+h.Key.Fingerprint+" is not known"
			p.Fix = "compare the fingerprint, then leave out --known-hosts-only"
		}
		return p
	}
	_, want, err := j.binary(h.Facts.OS, h.Facts.Arch)
	switch {
	case err != nil:
		e := cluster.AsError(err)
		p.What, p.Reason, p.Fix = whatCannot, e.Message, e.Hint
	case h.Facts.Owner.IsOfAnother(j.clusterID):
		j.takeOver(p)
	default:
		p.What, p.Reason = j.change(h, p.node, live, want)
	}
	return p
}

// find finds the node of the list that a host is. One that joined by a token has shown no host key: that it is this host is
// what the host says, and nothing is signed for it on its word.
func (j *judge) find(p *planItem) {
	if i := slices.IndexFunc(j.nodes, func(n roster.Node) bool { return n.ID == p.Node && p.Node != "" }); i >= 0 {
		p.node = &j.nodes[i]
		p.Name = p.node.Name
		return
	}
	there := p.host.Facts.Owner
	i := slices.IndexFunc(j.nodes, func(n roster.Node) bool {
		return n.ID == there.Node && n.By == "token" && n.HostKey == "" && !sighting.AreTwoMachines(n.Hardware, p.host.Facts.Hardware)
	})
	if i < 0 || there.IsOfAnother(j.clusterID) {
		return
	}
	p.node, p.Node, p.Name = &j.nodes[i], there.Node, j.nodes[i].Name
}

// change is what a host that can be installed needs, and why.
func (j *judge) change(h *bootstrap.Host, node *roster.Node, live *cluster.Node, want string) (what, reason string) {
	switch {
	case h.Facts.Installed == "":
		return whatInstall, ""
	case node == nil:
		return whatInstall, "has an agent that is not of this cluster's list"
	case h.Facts.Installed != want:
		return versionChange(h.Facts.Installed, want, versionOf(h.Facts.Installed), versionOf(want))
	case live == nil || (live.State != cluster.NodeReady && live.State != cluster.NodeDraining):
		if live != nil && live.Reason != "" {
			return whatRepair, live.Reason
		}
		return whatRepair, "does not serve"
	case live.Version != versionOf(want):
		return whatRepair, "still runs " + live.Version
	case j.digest != "" && node.Settings != j.digest && node.Settings != "": // one that joined by a token has none here
		return whatRepair, "its settings are not these any more"
	}
	return whatNothing, ""
}

// unreachable is a node that is in the list and that SSH cannot reach, as it joined by itself; nil for this machine.
func (j *judge) unreachable(n roster.Node) *planItem {
	if n.By == "local" {
		return nil
	}
	if _, ok := sighting.OfNode(n); ok {
		return nil // it was not asked for
	}
	p := &planItem{Name: n.Name, Node: n.ID, Source: bootstrap.SourceRoster, KeyState: "-", State: string(cluster.NodeDown), What: whatNothing, node: &n}
	live := j.live(n.ID)
	if live != nil {
		p.State = string(live.State)
	}
	if live == nil || (live.State != cluster.NodeReady && live.State != cluster.NodeDraining) {
		p.What, p.Reason, p.Fix = whatCannot, "is not up, and it joined without SSH", "there: mlxctl agent join TOKEN   # the same token, or one of `mlxctl token create`"
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

func modelText(h *bootstrap.Host) string {
	switch {
	case h.Facts.Chip != "" && h.Facts.Model != "":
		return h.Facts.Model + " " + h.Facts.Chip
	default:
		return h.Facts.Model + h.Facts.Chip
	}
}

// printPlan shows the table and, below it, what would mend what cannot be; unless it is the result, what the end of the command
// tells of is left out there.
func printPlan(s *iostreams.IOStreams, items []*planItem, isResult bool) error {
	list := printer.List[*planItem]{
		Name:  func(p *planItem) string { return p.Name },
		Empty: "no other machine was found",
		Columns: []printer.Column[*planItem]{
			{Header: "NAME", Value: func(p *planItem) string { return p.Name }},
			{Header: "ADDRESS", Value: func(p *planItem) string { return p.Address }},
			{Header: "MODEL", Value: func(p *planItem) string { return p.Model }},
			{Header: "SSH", Value: func(p *planItem) string {
				if k := bootstrap.KeyState(p.KeyState); k == bootstrap.KeyNew || k == bootstrap.KeyChanged {
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
		if p.What == whatCannot && p.Fix != "" && (isResult || p.isSeen) {
			fmt.Fprintf(&b, "%s: %s\n", printer.Clean(p.Name), printer.Clean(p.Fix))
		}
	}
	_, err := s.Out.Write([]byte(b.String()))
	return err
}

// countPlan says how many items are to be changed in each way: "install 3, upgrade 1".
func countPlan(items []*planItem) string {
	var parts []string
	for _, what := range []string{whatStart, whatInstall, whatUpgrade, whatDowngrade, whatRepair, whatTakeOver} {
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
