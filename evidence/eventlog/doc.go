// Package eventlog parses the firmware's event log (TCG PC Client Platform Firmware
// Profile 1.06, crypto-agile format) and replays it against the registers that a
// quote proves. It returns events of those registers only.
//
// # What a replay proves, and what not
//
// A register is a hash chain over the digests of its events. So the digests of a
// replayed register are proven, with their order. Three things are not, and whoever
// can write to the host's files can choose them:
//
//   - an event's type. A claim that rests on "the event of type X" can be forged by
//     calling another event X. The claims here rest on digests: a separator and the
//     state of SecureBoot are known by their digest, and every digest among the
//     loaded images counts that is not provably something else.
//   - an event's data, save where it has the event's digest ([Log.Bound]).
//   - the order of events of different registers.
//
// Root on the running system can also extend the registers 0 to 15. What comes after
// a register's separator may be of its making; boot_aggregate in the kernel's log
// (evidence/ima) proves that nothing was added to the registers 0 to 9 since the
// kernel started.
//
// Logs of the older format, with SHA-1 digests alone, parse but are refused: no
// accepted bank has digests there.
package eventlog
