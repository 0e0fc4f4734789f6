module coldstart

go 1.25
