// Package defect holds faults built in on purpose, to prove that the simulation
// finds them. Only the tests of replica turn one on; internal keeps it so.
package defect

// A Defect is one such fault.
type Defect int

// The defects.
const (
	None       Defect = iota
	NoSync            // the log is acknowledged without being synced
	EarlyAck          // proposals are acknowledged before they are committed
	ApplyTwice        // a batch that the network doubled is applied again
	StaleRead         // reads do not ask a majority
	Beats             // what a heartbeat says of this node's log is believed
	Trust             // members are taken to send what they may
)

// On is the fault that is on. It changes only while no node runs.
var On Defect
