package replica

// Submit is [Node.Propose] for callers with many commands under way: it returns at
// once, and p.Done is called with the outcome on the loop's goroutine, which it
// must not hold up.
func (n *Node) Submit(p *Proposal) { n.in.propose(p) }
