module gomemory

go 1.21
