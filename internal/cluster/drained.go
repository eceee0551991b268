package cluster

// nodeDrained is what a draining node is called once nothing runs there.
const nodeDrained = "drained"

// StateName is a node's state as people are shown it: a draining node with nothing left to finish is drained.
func (n *Node) StateName() string {
	if n.State == NodeDraining && n.Drained {
		return nodeDrained
	}
	return string(n.State)
}

// Open counts what a node has to finish: as the controller knows it, and as the node said last.
func (s *Snapshot) Open(id NodeID) int {
	there := 0
	for i := range s.Nodes {
		if s.Nodes[i].ID != id {
			continue
		}
		for j := range s.Nodes[i].Replicas {
			r := &s.Nodes[i].Replicas[j]
			there += r.Running + r.Waiting
		}
	}
	return max(there, s.Outstanding(id))
}
