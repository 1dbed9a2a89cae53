//go:build !entryversion3

package receipt

// newest is the newest version that this build knows. A build with the tag entryversion3
// stands for those of before version 4, in tests of domains with nodes of both.
const newest = 5
