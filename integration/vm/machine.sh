# What the first process of a machine without systemd does: mounts what pods need, makes a network.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
export KUBECONFIG=/etc/coracle/kubeconfig
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo machine >/proc/sys/kernel/hostname
ip link set lo up
ip link add lan0 type dummy
ip address add 192.0.2.10/24 dev lan0
ip link set lan0 up
ip route add default via 192.0.2.1 dev lan0
cd /opt/coracle || exit 1
exec >/dev/ttyS0 2>&1
