package ledger

import (
	"encoding/binary"

	"github.com/keystead/keystead"
)

// Alarm is a contradiction among nodes. The ledger goes on; people must look.
type Alarm struct {
	Number  uint64
	Index   uint64 // log index of the entry that showed it
	Clock   uint64 // domain clock
	Finding keystead.Finding
}

func (m *Machine) raise(w Writer, f keystead.Finding) error {
	a := Alarm{m.head.alarms, m.head.applied, m.head.clock, f}
	m.head.alarms++
	m.alarms = append(m.alarms, a)
	return fatal(w.Set(numberKey(spaceAlarm, a.Number), a.encode()))
}

func (a *Alarm) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, a.Index)
	return appendFinding(binary.BigEndian.AppendUint64(b, a.Clock), a.Finding)
}

func decodeAlarm(number uint64, b []byte) (Alarm, error) {
	c := record("alarm", b)
	a := Alarm{Number: number, Index: c.U64("index"), Clock: c.U64("clock"), Finding: readFinding(c)}
	c.End()
	return a, c.Err()
}
