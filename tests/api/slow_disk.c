/* Preloaded into a server: each sync takes as many milliseconds as $DISK/delay says, and adds a byte to $DISK/syncs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void wait_as_told(void) {
    const char *folder = getenv("DISK");
    char path[4096];
    long delay = 0;
    FILE *told;
    int count;
    if (folder == NULL) return;
    snprintf(path, sizeof path, "%s/delay", folder);
    if ((told = fopen(path, "r")) != NULL) {
        if (fscanf(told, "%ld", &delay) != 1) delay = 0;
        fclose(told);
    }
    struct timespec pause = {delay / 1000, delay % 1000 * 1000000};
    nanosleep(&pause, NULL);
    snprintf(path, sizeof path, "%s/syncs", folder);
    if ((count = open(path, O_WRONLY | O_APPEND | O_CREAT, 0600)) >= 0) {
        if (write(count, ".", 1) < 0) perror("syncs");
        close(count);
    }
}

int fsync(int file) {
    wait_as_told();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}

int fdatasync(int file) {
    wait_as_told();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file);
}
