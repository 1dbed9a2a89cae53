package replica

// A Defect is a fault built in on purpose, to prove that the simulation finds it.
// Only tests of this room can turn one on.
type Defect int

// The defects.
const (
	DefectNoSync     Defect = iota + 1 // acknowledge log writes that are not synced
	DefectEarlyAck                     // acknowledge proposals before they are committed
	DefectApplyTwice                   // apply again what was applied before a restart
	DefectStaleRead                    // answer reads without asking a majority
)
