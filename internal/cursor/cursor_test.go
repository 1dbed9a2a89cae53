package cursor

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/keystead/keystead"
)

func TestFirstErrorSticks(t *testing.T) {
	c := New("test", binary.BigEndian, []byte{1, 0, 2, 'a', 'b', 9})
	if c.U8("one") != 1 || string(c.Sized16(4, "text")) != "ab" {
		t.Fatal("good reads must succeed")
	}
	if c.U32("number") != 0 || c.U8("next") != 0 || c.Len() != 0 {
		t.Error("after an error every read gives zero")
	}
	var f *keystead.FormatError
	if !errors.As(c.Err(), &f) || f.Field != "number" || f.Offset != 5 || f.Format != "test" {
		t.Errorf("got %v", c.Err())
	}
}

// TestShort: only an input that ends too early is short; a length over its limit is not.
func TestShort(t *testing.T) {
	c := New("test", binary.BigEndian, []byte{0, 5, 1})
	if c.Sized16(5, "x"); c.Err() == nil || !c.Short() {
		t.Errorf("cut off: got %v, %v", c.Err(), c.Short())
	}
	c = New("test", binary.BigEndian, []byte{0, 5, 1})
	if c.Sized16(4, "x"); c.Err() == nil || c.Short() {
		t.Errorf("over the limit: got %v, %v", c.Err(), c.Short())
	}
}

func TestReadsDoNotAllocate(t *testing.T) {
	data := []byte{0, 0, 0, 1, 'a', 0, 1, 'b', 7}
	c := New("test", binary.BigEndian, data)
	if n := testing.AllocsPerRun(10, func() {
		*c = *New("test", binary.BigEndian, data)
		if c.Sized32(4, "text"); len(c.Sized16(4, "text")) != 1 || c.U8("number") != 7 {
			t.Fatal(c.Err())
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestBounds(t *testing.T) {
	for name, read := range map[string]func(*Cursor){
		"over the limit": func(c *Cursor) { c.Sized32(3, "x") },
		"over the end":   func(c *Cursor) { c.Sized32(1<<40, "x") },
		"negative":       func(c *Cursor) { c.Bytes(-1, "x") },
		"left over":      func(c *Cursor) { c.End() },
	} {
		c := New("test", binary.BigEndian, []byte{0, 0, 0, 4, 1, 2, 3})
		if read(c); c.Err() == nil {
			t.Errorf("%s: want an error", name)
		}
	}
}
