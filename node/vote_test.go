package node

import "testing"

// TestLostVoteIsSentAgain has a node's signature not reach the log: it must not
// count as signed, or the last leaf before a quiet time never gets its receipt.
func TestLostVoteIsSentAgain(t *testing.T) {
	n := single(t)
	n.stop() // so that nothing more is proposed
	if err := n.closeFronts(); err != nil {
		t.Fatal(err)
	}
	n.tasks.Wait() // the loop that votes may be at it still
	n.pulse.voter.mu.Lock()
	n.pulse.voter.signed = 0
	n.pulse.voter.mu.Unlock()
	if n.pulse.vote(1) {
		t.Error("a signature that did not reach the log was taken for sent")
	}
	n.pulse.voter.mu.Lock()
	defer n.pulse.voter.mu.Unlock()
	if n.pulse.voter.signed != 0 {
		t.Errorf("signed is %d", n.pulse.voter.signed)
	}
}
