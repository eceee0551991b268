package plan

import (
	"cmp"
	"fmt"
	"net/url"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Owner is whose node a host is, as its files say. All of it is empty on a host that is no node.
type Owner struct {
	Node      cluster.NodeID `json:"node,omitempty"`
	Cluster   string         `json:"cluster,omitempty"` // its name
	ClusterID string         `json:"cluster_id,omitempty"`
	URL       string         `json:"url,omitempty"` // of the bus of its controller, the first of several
}

// IsOfAnother says whether a node is known to be of another cluster than that with an id.
func (o Owner) IsOfAnother(clusterID string) bool {
	return clusterID != "" && o.ClusterID != "" && o.ClusterID != clusterID
}

// String names the cluster for people: its name, where its controller is, and the begin of its id.
func (o Owner) String() string {
	const digits = 8
	where := "an address that it does not say"
	if u, err := url.Parse(o.URL); err == nil && u.Host != "" {
		where = u.Host
	}
	return fmt.Sprintf("%s, controller at %s, id %s", cmp.Or(o.Cluster, "without a name"), where, o.ClusterID[:min(digits, len(o.ClusterID))])
}

// Spares says why an order to stop or to uninstall leaves a host as it is; empty where it does not.
func (o *Order) Spares(there Owner) string {
	switch {
	case o.Action != Stop && o.Action != Uninstall:
		return ""
	case there.IsOfAnother(o.ClusterID):
		return "it is a node of another cluster (" + there.String() + ")"
	case o.Node != "" && there.Node != "" && o.Node != there.Node:
		return "the node there is another one, " + string(there.Node)
	}
	return ""
}

// Refuses is the error, of CodeConflict, of an installation on a node of another cluster; nil where that may be taken over, or
// is none.
func (o *Order) Refuses(there Owner) error {
	if o.Action != Install || o.TakeOver || !there.IsOfAnother(o.Settings.ClusterID) {
		return nil
	}
	return cluster.Errorf(cluster.CodeConflict, "it is a node of another cluster (%s)", there).
		WithHint("`mlxctl up HOST --take-over` makes it one of this; that cluster loses it")
}
