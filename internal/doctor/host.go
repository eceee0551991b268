package doctor

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Sources of hosts.
const (
	SourceBonjour = "bonjour"
	SourceConfig  = "config"
	SourceRoster  = "roster"
	SourceCluster = "cluster"
)

// Host is one Mac, as those who know of it describe it.
type Host struct {
	Name      string
	HostName  string // that SSH would be given
	Named     string // what SSH is given by the operator or the roster, under which its key is known; empty where neither does
	User      string
	Addresses []netip.Addr
	Port      int // of SSH; zero means what ssh would use
	Home      string
	Node      cluster.NodeID
	Sources   []string
	// RemoteLogin says that Bonjour shows it with SSH.
	RemoteLogin bool
	Admitted    bool
	Self        bool          // is the operator's own Mac
	State       *cluster.Node // as the controller sees it; nil where it does not
}

// From says whether a source knows the host.
func (h *Host) From(source string) bool { return slices.Contains(h.Sources, source) }

// Merge makes one host of those that are one Mac: by node id, host name or address. The result is by name, this Mac
// first; a name that an operator gave wins over one that Bonjour told.
func Merge(hosts []Host) []Host {
	var out []Host
	for _, h := range hosts {
		for i := 0; i < len(out); i++ {
			if !same(out[i], h) {
				continue
			}
			h = joined(out[i], h)
			out = slices.Delete(out, i, i+1)
			i = -1 // what is known now may make it the same as another one
		}
		out = append(out, h)
	}
	slices.SortStableFunc(out, func(a, b Host) int {
		if a.Self != b.Self {
			return map[bool]int{true: -1, false: 1}[a.Self]
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

func same(a, b Host) bool {
	if a.Self && b.Self {
		return true
	}
	if a.Node != "" && b.Node != "" {
		return a.Node == b.Node
	}
	if a.HostName != "" && strings.EqualFold(a.HostName, b.HostName) {
		return true
	}
	return slices.ContainsFunc(a.Addresses, func(ip netip.Addr) bool {
		return !ip.IsLinkLocalUnicast() && slices.Contains(b.Addresses, ip) // link-local ones repeat on every link
	})
}

// joined is a with what b knows besides.
func joined(a, b Host) Host {
	if b.Admitted && !a.Admitted {
		a, b = b, a
	}
	a.Name, a.HostName, a.User, a.Home = cmp.Or(a.Name, b.Name), cmp.Or(a.HostName, b.HostName), cmp.Or(a.User, b.User), cmp.Or(a.Home, b.Home)
	a.Named = cmp.Or(a.Named, b.Named)
	if a.Port == 0 {
		a.Port = b.Port
	}
	if a.Node == "" {
		a.Node = b.Node
	}
	if a.State == nil {
		a.State = b.State
	}
	for _, ip := range b.Addresses {
		if !slices.Contains(a.Addresses, ip) {
			a.Addresses = append(a.Addresses, ip)
		}
	}
	for _, s := range b.Sources {
		if !slices.Contains(a.Sources, s) {
			a.Sources = append(a.Sources, s)
		}
	}
	a.RemoteLogin, a.Admitted, a.Self = a.RemoteLogin || b.RemoteLogin, a.Admitted || b.Admitted, a.Self || b.Self
	return a
}

// Cluster is what the judgement of a host depends on besides the host.
type Cluster struct {
	Up      bool   // the controller answers
	Version string // of the controller
	At      time.Time
}

// Serving says of a host whether it serves and, where it does not, why as far as the controller and Bonjour know.
func (h *Host) Serving(c Cluster) plan.Finding {
	var f plan.Finding
	switch {
	case h.State != nil && c.Up:
		f = h.judge(c)
	case h.Admitted && !c.Up:
		f = skip("it is a node; the controller does not answer, so nobody knows how it is")
	case h.Admitted:
		f = fail("mlxctl up", "it is a node, and the controller has not heard of it")
	case h.Self:
		f = warn("mlxctl up", "no agent runs on this Mac")
	case h.From(SourceConfig):
		f = fail("mlxctl up", "not a node yet, though the configuration names it")
	case h.From(SourceBonjour) && !h.RemoteLogin:
		f = warn("System Settings → General → Sharing → Remote Login: on, then `mlxctl up`",
			"not a node: Remote Login is off")
	default:
		f = warn("mlxctl up "+quote(cmp.Or(h.HostName, h.Name)), "not a node: it has never been admitted")
	}
	f.Check = "serving"
	return f
}

// Explained joins what Serving says of a host with what was found there. A failure that says why it does not serve takes the
// place of the one that says that it does not: one cause is one finding.
func Explained(serving plan.Finding, found []plan.Finding) []plan.Finding {
	i := slices.IndexFunc(found, func(f plan.Finding) bool { return f.State == plan.FindingFail })
	if serving.State != plan.FindingFail || i < 0 {
		return append([]plan.Finding{serving}, found...)
	}
	why := found[i]
	why.Message = serving.Message + ": " + why.Message
	return append([]plan.Finding{why}, slices.Delete(slices.Clone(found), i, i+1)...)
}

func (h *Host) judge(c Cluster) plan.Finding {
	n := h.State
	reason := ""
	if n.Reason != "" {
		reason = ": " + n.Reason
	}
	name := quote(n.Name)
	switch n.State {
	case cluster.NodeReady:
		if c.Version != "" && n.Version != "" && n.Version != c.Version {
			return warn("mlxctl upgrade", "serving, with version %s; the controller has %s", n.Version, c.Version)
		}
		models := "models"
		if len(n.Replicas) == 1 {
			models = "model"
		}
		return ok("serving; %d %s in memory, %d on disk", len(n.Replicas), models, len(n.Models))
	case cluster.NodeDraining:
		return warn("mlxctl undrain "+name, "draining: it takes nothing new%s", reason)
	case cluster.NodeSuspect:
		return fail("ping "+cmp.Or(h.HostName, n.Name)+"   # asleep, or off the network?", "suspect, last heard %s ago%s", age(c.At.Sub(n.LastSeen)), reason)
	case cluster.NodeJoining:
		return warn("mlxctl logs "+name, "joining: it has not proven itself yet%s", reason)
	case cluster.NodeDown:
	}
	return fail("mlxctl up   # wakes, repairs and starts it again; `mlxctl nodes rm "+name+"` if it is gone for good",
		"down, last heard %s ago%s", age(c.At.Sub(n.LastSeen)), reason)
}

func age(d time.Duration) string {
	if d >= 48*time.Hour {
		return strconv.Itoa(int(d.Hours()/24)) + " days"
	}
	return max(d, 0).Round(time.Second).String()
}
