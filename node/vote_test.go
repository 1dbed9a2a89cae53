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
	n.voter.mu.Lock()
	n.voter.signed = 0
	n.voter.mu.Unlock()
	if n.vote(1) {
		t.Error("a signature that did not reach the log was taken for sent")
	}
	n.voter.mu.Lock()
	defer n.voter.mu.Unlock()
	if n.voter.signed != 0 {
		t.Errorf("signed is %d", n.voter.signed)
	}
}
