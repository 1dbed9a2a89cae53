package ledger

import (
	"encoding/binary"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
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
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, a.Index), a.Clock)
	for _, s := range []string{string(a.Finding.Reason), a.Finding.Want, a.Finding.Got, a.Finding.Where} {
		b = cursor.AppendSized16(b, s)
	}
	return b
}

func decodeAlarm(number uint64, b []byte) (Alarm, error) {
	c := record("alarm", b)
	a := Alarm{Number: number, Index: c.U64("index"), Clock: c.U64("clock")}
	text := func(field string) string { return string(c.Sized16(1<<16-1, field)) }
	a.Finding = keystead.Finding{Reason: keystead.Reason(text("reason")), Want: text("want"), Got: text("got"), Where: text("where")}
	c.End()
	return a, c.Err()
}
